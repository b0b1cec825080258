"""Write a family's checkpoint with random weights, drawn where they are used: seconds on a GPU.

The processor, the chat format and the ids of the special tokens are those of the released
checkpoint; the tokenizer knows few words, and the rest of its vocabulary is there and unused.

Every matrix is drawn anew, also what the library starts at zero; norms and biases get noise,
because without it a forgotten one would go unseen. Only tokens of the tokenizer's words have an
output row that is not zero: so every answer runs to the token limit and does the work of a full
one, and its text, which a question about it repeats (``p_true``), has as many tokens as a real one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from family_shapes import FamilyShape

STANDARD_DEVIATION = 0.02
"""Of every weight matrix, as the families' own settings have it."""

TINY_STANDARD_DEVIATION = 0.15
"""In the narrow model, where less would let the image fade on its way."""

SHARD = "5GB"
"""Most bytes of a file of weights, as in released checkpoints: they are hashed at the same time."""

UNUSED = "<unused_"
"""Beginning of the tokens that fill the vocabulary."""

_IMAGES = ("image_token_id", "image_token_index", "video_token_id")
"""Settings that name tokens which no answer may hold."""


def build_checkpoint(
    folder: Path, shape: FamilyShape, *, tiny: bool, dtype: torch.dtype, device: str
) -> int:
    """Write a checkpoint that ``from_pretrained`` loads like the released one.

    Args:
        folder: Where; made if missing.
        shape: Which.
        tiny: Whether widths, depths and tiles are those for a CPU.
        dtype: Type of the weights.
        device: Where they are drawn.

    Returns:
        The number of its parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        name: _lay_over(getattr(shape, name), shape.tiny.get(name, {}) if tiny else {})
        for name in ("config", "processor", "images")
    }
    _write_processor(folder, shape, parts["processor"], parts["images"])
    _write_tokenizer(folder, shape)
    with torch.device(device):
        model = _empty_model(parts["config"], dtype)
    _randomise(model, TINY_STANDARD_DEVIATION if tiny else STANDARD_DEVIATION)
    _answer_in_words(model, shape, folder)
    model.save_pretrained(folder, max_shard_size=SHARD)
    return sum(parameter.numel() for parameter in model.parameters())


def build_processor(folder: Path, shape: FamilyShape) -> None:
    """Write the processor of a checkpoint at its true shape, and the configuration of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_processor(folder, shape, dict(shape.processor), dict(shape.images))
    _write_tokenizer(folder, shape)
    _write_json(folder / "config.json", dict(shape.config))


def count_parameters(shape: FamilyShape) -> int:
    """Return the number of parameters at the true shape, without building them."""
    with torch.device("meta"):
        model = _empty_model(shape.config, torch.bfloat16)
    return sum(parameter.numel() for parameter in model.parameters())


def _lay_over(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with ``changes``, which go as deep as both are mappings."""
    merged = dict(settings)
    for name, value in changes.items():
        known = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(known, Mapping)
        merged[name] = _lay_over(known, value) if both else value
    return merged


def _write_processor(
    folder: Path, shape: FamilyShape, processor: dict[str, Any], images: dict[str, Any]
) -> None:
    named = {"processor_class": processor["processor_class"]}
    (folder / "chat_template.jinja").write_text(shape.template, encoding="utf-8")
    _write_json(folder / "preprocessor_config.json", {**images, **named})
    if processor != named:  # Qwen2.5-VL has no such file
        _write_json(folder / "processor_config.json", processor)
    if shape.videos is not None:
        _write_json(folder / "video_preprocessor_config.json", {**shape.videos, **named})


def _write_tokenizer(folder: Path, shape: FamilyShape) -> None:
    """Write the small tokenizer, its special tokens moved to their true ids."""
    from families.family_tokenizer import build_tokenizer  # family_shapes has made it findable

    build_tokenizer(list(shape.tokens), **shape.tokenizer).save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    learnt = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    taken = set(shape.tokens.values())
    size = shape.config["text_config"]["vocab_size"]
    free = (number for number in range(size) if number not in taken)
    words = {word: next(free) for word in learnt if word not in shape.tokens}
    rest = {f"{UNUSED}{number}>": number for number in free}
    content["model"]["vocab"] = {**words, **rest, **shape.tokens}
    for token in content["added_tokens"]:
        token["id"] = shape.tokens[token["content"]]
    processor = content["post_processor"] or {}
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [shape.tokens[token["id"]]]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _empty_model(config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    # The library changes nested settings in place.
    described = json.loads(json.dumps(dict(config)))
    made = AutoConfig.for_model(described.pop("model_type"), **described)
    return AutoModelForImageTextToText.from_config(made, dtype=dtype)


def _randomise(model: Any, spread: float) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, spread)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.1))


def _answer_in_words(model: Any, shape: FamilyShape, folder: Path) -> None:
    """Name the tokens that end an answer, and see to it that only words are ever said."""
    stops = [shape.tokens[stop] for stop in shape.stops]
    images = [shape.config[name] for name in _IMAGES if name in shape.config]
    weight = model.get_output_embeddings().weight
    silent = torch.ones(len(weight), dtype=torch.bool)
    silent[_words(folder, shape)] = False
    silent[[token for token in (*stops, *images) if token < len(weight)]] = True
    with torch.no_grad():  # Llama-3.2-Vision's image token has no output row
        weight[silent.to(weight.device)] = 0
    roles = shape.tokenizer
    model.generation_config.update(
        bos_token_id=shape.tokens.get(roles.get("bos", "")),
        eos_token_id=stops,
        pad_token_id=shape.tokens[roles["pad"]],
    )


def _words(folder: Path, shape: FamilyShape) -> list[int]:
    """Return the tokens whose text the written tokenizer encodes as that one token again."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    known = {number for word, number in vocabulary.items() if not word.startswith(UNUSED)}
    return [
        number
        for number in sorted(known - set(shape.tokens.values()))
        if tokenizer.encode(tokenizer.decode([number]), add_special_tokens=False) == [number]
    ]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2), encoding="utf-8")
