"""Meaning by a model of natural language inference, whose weights are set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from detector_worlds import noise_rows
from vlmscope.detectors import DETECTORS, Score
from vlmscope.detectors.meaning import meaning_sets
from vlmscope.detectors.nli import Entailment, meaning_by_model
from vlmscope.errors import ModelError
from vlmscope.model.entailment import load_entailment_model
from vlmscope.score import normalise

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "it", "red", "crimson", "blue")


def write_model(folder: Path, labels: dict[int, str]) -> Path:
    """Write a tiny classifier whose class depends on nothing but its bias."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]",  # noqa: S106
        cls_token="[CLS]", sep_token="[SEP]",  # noqa: S106
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=32, num_labels=len(labels),
        id2label=labels, label2id={text: i for i, text in labels.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, *[0.0] * (len(labels) - 1)]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says entailment, always."""
    folder = tmp_path_factory.mktemp("nli") / "model"
    return write_model(folder, {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"})


def test_the_class_of_a_pair_decides(agreeing: Path) -> None:
    same = meaning_by_model(agreeing)
    assert meaning_sets("what is it", ["red", "crimson", "blue"], same) == [0, 0, 0]
    model = load_entailment_model(agreeing)
    assert model.label == 0
    assert model.entails([("what is it red", "what is it blue")] * 40) == [True] * 40
    assert model.entails([]) == []


def test_both_directions_are_needed_and_equal_answers_are_not_asked(
    agreeing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def one_way(_: object, pairs: list[tuple[str, str]]) -> list[bool]:
        asked.extend(pairs)
        return [premise < hypothesis for premise, hypothesis in pairs]

    monkeypatch.setattr("vlmscope.model.entailment.EntailmentModel.entails", one_way)
    same = meaning_by_model(agreeing)
    assert not same("what is it", "red", "blue")
    assert asked == [
        ("what is it red", "what is it blue"), ("what is it blue", "what is it red"),
    ]  # fmt: skip
    assert same("what is it", "Red.", "red")
    assert not same("what is it", "red", "blue"), "known already"
    assert len(asked) == 2


class Ordered:
    """A model by whose rule a text entails those that begin with the same letter, or are longer."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, str]]] = []

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.batches.append(list(pairs))
        return [self.rule(*pair) for pair in pairs]

    @staticmethod
    def rule(premise: str, hypothesis: str) -> bool:
        one, other = (text.rpartition("? ")[2] for text in (premise, hypothesis))
        return one[:1] == other[:1] or len(other) > len(one)


@pytest.mark.parametrize("name", ["semantic_sets", "semantic_entropy", "selfcheck"])
def test_comparisons_of_many_rows_are_decided_in_batches(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers that pair by pair gives, each pair of texts once."""
    monkeypatch.setattr("vlmscope.detectors.samples.TOGETHER", 16)
    model = Ordered()
    rows = noise_rows(3, 30)

    def plain(question: str, one: str, other: str) -> bool:
        first, second = f"{question} {one}", f"{question} {other}"
        equal = normalise(one) == normalise(other)
        return equal or (model.rule(first, second) and model.rule(second, first))

    method = DETECTORS[name].method
    assert isinstance(method, Score)
    found = method.compute(replace(rows, same_meaning=Entailment(model)))  # type: ignore[arg-type]
    assert np.array_equal(found, method.compute(replace(rows, same_meaning=plain)))
    assert len(set(found)) > 2
    assert 0 < len(model.batches) <= 8, "16 and 14 rows of 4 samples"
    asked = [pair for batch in model.batches for pair in batch]
    assert len(asked) == len(set(asked)) > 50


def test_what_is_known_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmscope.detectors.nli.MOST_KNOWN", 6)
    model = Ordered()
    same = Entailment(model)  # type: ignore[arg-type]
    asked = [("?", letter, "z") for letter in "abcd"]
    same.prepare(asked[:3])
    assert [same(*each) for each in asked] == [False] * 4
    assert [len(batch) for batch in model.batches] == [6, 2]
    assert not same(*asked[0])
    assert len(model.batches) == 3, "asked again"


def test_another_classifier_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "other", {0: "positive", 1: "negative"})
    with pytest.raises(ModelError, match="needs a class 'entailment', there are positive"):
        meaning_by_model(folder)
    with pytest.raises(ModelError, match=r"config\.json"):
        meaning_by_model(tmp_path / "missing")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", {0: "entailment", 1: "neutral"})
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        meaning_by_model(folder)
    assert "allow-pickle" not in str(caught.value)
