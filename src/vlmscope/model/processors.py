"""Load a checkpoint's processor, also where torchvision is not installed, with the same pixels.

``AutoProcessor`` is tried first. It stops at two things that a picture and a question do not need:

- **Videos.** The video processors (Qwen-VL, LLaVA-OneVision, InternVL, SmolVLM, GLM-V, Gemma 4)
  exist for torchvision only, and SmolVLM writes the length of a video with num2words. Without the
  package the processor is built from its parts, and its video processor is left out.
- **Too strict a gate.** PixtralProcessor (Pixtral, Mistral 3) asks for torchvision and uses none of
  it; transformers 5.17 hides the PIL classes of Idefics3 and SmolVLM. Both are imported from the
  module that defines them.

Every image processor that exists for PIL is loaded for PIL, whatever is installed: torchvision
resizes a little differently (by one grey level of a plain picture, by twenty of one that is noise),
and a run must not depend on that.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from vlmscope.errors import ModelError, VlmscopeError, one_line, typed_line
from vlmscope.model.folder import check_files


def load_processor(name: str | Path, revision: str | None = None) -> Any:
    """Return the processor of a checkpoint: tokenizer, image processor for PIL, chat template.

    Where torchvision is missing, the result may have no ``video_processor``; its class is then a
    subclass of the same name. What it makes of pictures and text is the same.

    Args:
        name: Folder of a checkpoint, or a hub id.
        revision: Branch, tag or commit of a hub repository.

    Raises:
        ModelError: The processor cannot be loaded, has no image processor, or exists for
            torchvision only, which is not installed.
    """
    from transformers import AutoProcessor

    name = str(name)
    if Path(name).is_dir():
        check_files(Path(name))
    try:
        processor = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # settings that a class was not made for may raise anything
        if _has_torchvision() and "num2words" not in str(error):
            raise _unloadable(name, error) from error
        processor = _assemble(name, revision, error)
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{name}: {type(processor).__name__} has no image processor; "
            "the folder needs processor_config.json or preprocessor_config.json"
        )
    kind = type(processor.image_processor).__name__
    if not kind.endswith("Pil"):
        processor.image_processor = _load_images(kind, name, revision) or processor.image_processor
    return processor


def _assemble(name: str, revision: str | None, first: Exception) -> Any:
    """Return the processor built from its parts, without the one for videos.

    Raises:
        ModelError: A part cannot be loaded; ``first`` is what ``AutoProcessor`` said.
    """
    try:
        found = _find_class(name, revision)
        settings, _ = found.get_processor_dict(name, revision=revision)
        parts = [_load_part(part, name, revision) for part in found.get_attributes()]
        with _without_num2words(found):
            return _without_videos(found).from_args_and_dict(parts, settings)
    except VlmscopeError:
        raise
    except Exception as error:  # as above
        if "torchvision" in str(error):
            raise ModelError(
                f"{name}: its processor needs torchvision, which is not installed: "
                f"pip install torchvision ({one_line(error)})"
            ) from error
        raise _unloadable(name, first) from error


def _unloadable(name: str, error: Exception) -> ModelError:
    """Return the error for a processor that cannot be loaded; the library's may name its option."""
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{name}: the processor brings code of its own, which is never run; give the version "
            "of it that transformers loads by itself, often named with -hf at the end"
        )
    return ModelError(f"{name}: cannot load the processor: {typed_line(error)}")


def _load_part(part: str, name: str, revision: str | None) -> Any:
    """Return one part of a processor; None for videos."""
    from transformers import AutoFeatureExtractor, AutoTokenizer

    if part == "tokenizer":
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if part in {"feature_extractor", "audio_processor"}:
        return AutoFeatureExtractor.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    if part == "image_processor":
        kind = _image_kind(name, revision)
        images = _load_images(kind, name, revision)
        if images is None:
            raise ImportError(f"{kind} exists for torchvision only")
        return images
    return None


def _image_kind(name: str, revision: str | None) -> str:
    """Return the image processor class that a checkpoint names, or its architecture has."""
    from transformers import AutoConfig, ImageProcessingMixin
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    settings, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if not kind:
        model_type = AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=False
        ).model_type
        kind = next(iter(IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).values()), "")
    return str(kind).replace("FeatureExtractor", "ImageProcessor")


def _load_images(kind: str, name: str, revision: str | None) -> Any:
    """Return the image processor ``kind`` for PIL, or None where there is none."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    plain = kind.removesuffix("Fast").removesuffix("Pil")
    modules = [m for m, kinds in IMAGE_PROCESSOR_MAPPING_NAMES.items() if plain in kinds.values()]
    found = _defined_as(f"{plain}Pil", "image_processing_pil", modules)
    return None if found is None else found.from_pretrained(name, revision=revision)


def _find_class(name: str, revision: str | None) -> Any:
    """Return the processor class that a checkpoint names, or that belongs to its architecture."""
    from transformers import AutoConfig, ImageProcessingMixin, ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES as NAMES
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    wanted = ProcessorMixin.get_processor_dict(name, revision=revision)[0].get("processor_class")
    if not wanted:
        images, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
        wanted = images.get("processor_class")
    wanted = wanted or get_tokenizer_config(name, revision=revision).get("processor_class")
    if not wanted:
        wanted = NAMES.get(
            AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False).model_type,
            "",
        )
    modules = [module for module, kind in NAMES.items() if kind == wanted]
    found = _defined_as(str(wanted), "processing", modules)
    if found is None:
        raise ValueError(f"this transformers has no processor class {wanted!r}")
    return found


def _defined_as(kind: str, prefix: str, modules: list[str]) -> Any:
    """Return class ``kind`` from the module that defines it, past the library's gates."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    for model_type in modules:
        folder = model_type_to_module_name(model_type)
        found = getattr(_import(f"transformers.models.{folder}.{prefix}_{folder}"), kind, None)
        if found is not None and found.__module__.endswith(f".{prefix}_{folder}"):
            return found
    return None


def _import(path: str) -> ModuleType | None:
    """Return a module of the library; None if there is none of that name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name in {path, path.rpartition(".")[0]}:
            return None
        if error.name != "torchvision" or ".processing_" not in path:
            raise
    # Pixtral's processor takes one function from the torchvision twin of its image processor; the
    # PIL twin has the same function.
    twin = path.replace(".processing_", ".image_processing_")
    pil = importlib.import_module(path.replace(".processing_", ".image_processing_pil_"))
    sys.modules[twin] = pil
    try:
        return importlib.import_module(path)
    finally:
        del sys.modules[twin]


def _without_videos(found: Any) -> Any:
    """Return a subclass of a processor class, of the same name, that takes no video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        if name == "video_processor":
            return None
        return found.check_argument_for_proper_class(self, name, part)

    # SmolVLM reads these two whenever it renders a chat, the library the third.
    stand_in = SimpleNamespace(num_frames=None, fps=None, model_input_names=[])
    members = {
        "__module__": found.__module__,
        "__doc__": found.__doc__,
        "check_argument_for_proper_class": check,
        "video_processor": property(lambda _: stand_in, lambda _self, _part: None),
    }
    return type(found.__name__, (found,), members)


@contextmanager
def _without_num2words(found: Any) -> Iterator[None]:
    """Let SmolVLM's processor be built without num2words, which it calls for videos only.

    Digits, should it ever be called.
    """
    module = importlib.import_module(found.__module__)
    missing = getattr(module, "num2words", found) is None
    if missing:
        module.num2words = str  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if missing:
            module.num2words = None  # type: ignore[attr-defined]


def _has_torchvision() -> bool:
    from transformers.utils.import_utils import is_torchvision_available

    return bool(is_torchvision_available())
