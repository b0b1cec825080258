"""Write a checkpoint folder as the hub has it: weights, settings, tokenizer, template, processor.

The processor's files are written as plain JSON, with the class names that the released checkpoints
name: some processor classes cannot even be built without torchvision, and a checkpoint from the hub
does not know what is installed either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STANDARD_DEVIATION = 0.15
"""Of every weight matrix: large enough for images and questions to change the answer."""


def write_checkpoint(
    folder: Path,
    *,
    tokenizer: Any,
    template: str,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    images: Mapping[str, Any],
    videos: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
    stops: Sequence[str],
    nested: bool = False,
) -> Path:
    """Write one checkpoint and return its folder.

    Args:
        folder: Where; made if missing.
        tokenizer: From ``build_tokenizer``.
        template: The chat template.
        config: ``config.json``, with ``model_type``.
        processor: ``processor_config.json``, with ``processor_class``. With nothing else in it the
            file is left out, and the class is named in ``preprocessor_config.json`` alone.
        images: ``preprocessor_config.json``, with ``image_processor_type``.
        videos: ``video_preprocessor_config.json``, where the real checkpoint has one.
        audio: Settings of the feature extractor, where the family hears too.
        stops: Tokens that end an answer. Every 16th ordinary token is added, so that the answers of
            random weights end at different lengths.
        nested: Everything in ``processor_config.json``, as transformers 5 saves it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write_processor(folder, processor, images, videos, audio, nested=nested)
    model = _random_model(config)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ordinary = [i for i in range(7, len(tokenizer), 16) if i not in special]
    model.generation_config.update(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(list(stops)) + ordinary,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    return folder


def change_settings(folder: Path, part: str, **settings: Any) -> Path:
    """Change some settings of one part of a checkpoint's configuration; return the folder.

    The part is ``text_config`` or ``vision_config``, for example.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config[part] |= settings
    _write_json(path, config)
    return folder


def _write_processor(
    folder: Path,
    processor: Mapping[str, Any],
    images: Mapping[str, Any],
    videos: Mapping[str, Any] | None,
    audio: Mapping[str, Any] | None,
    *,
    nested: bool,
) -> None:
    parts = {"image_processor": images, "video_processor": videos, "feature_extractor": audio}
    if nested:
        found = {name: part for name, part in parts.items() if part is not None}
        _write_json(folder / "processor_config.json", {**processor, **found})
        return
    named = {"processor_class": processor["processor_class"]}
    if processor != named:  # Qwen2.5-VL, for example, has no such file
        _write_json(folder / "processor_config.json", processor)
    _write_json(folder / "preprocessor_config.json", {**(audio or {}), **images, **named})
    if videos is not None:
        _write_json(folder / "video_preprocessor_config.json", {**videos, **named})


def _random_model(config: Mapping[str, Any], seed: int = 0) -> Any:
    """Return the model of these settings, every parameter drawn at random."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    described = dict(config)
    model_type = described.pop("model_type")
    imaged = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    auto = AutoModelForImageTextToText if imaged else AutoModelForMultimodalLM
    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(model_type, **described), dtype=torch.float32)
    _randomise(model, torch.Generator().manual_seed(seed))
    return model.eval()


def _randomise(model: Any, rng: torch.Generator) -> None:
    """Draw every parameter anew: what starts at zero or one hides mistakes.

    Matrices of every family get the same spread. Norms, scales, biases and gates keep what they
    start from, and noise is added.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty_like(parameter)
            if name.endswith("A_log"):  # linear attention that remembers more than a few tokens
                parameter.copy_(noise.normal_(-2.0, 0.3, generator=rng))
            elif "gate" in name.rsplit(".", 1)[-1] and parameter.ndim <= 1:
                parameter.copy_(noise.normal_(0.5, 0.2, generator=rng))
            elif parameter.ndim <= 1:
                parameter.add_(noise.normal_(0.0, 0.1, generator=rng))
            else:
                # An image must not fade on its way through a chain of small convolutions.
                fan_in = parameter[0].numel()
                spread = (2 / fan_in) ** 0.5 if parameter.ndim > 3 else STANDARD_DEVIATION
                parameter.copy_(noise.normal_(0.0, spread, generator=rng))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2), encoding="utf-8")
