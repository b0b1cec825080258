"""Meaning by a model of natural language inference, whose weights are set by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from vlmscope.detectors.meaning import meaning_sets
from vlmscope.detectors.nli import meaning_by_model
from vlmscope.errors import ModelError
from vlmscope.model.entailment import load_entailment_model

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
