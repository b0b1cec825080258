"""Load a checkpoint's processor, with the same pixel values with and without torchvision.

Older checkpoints (and copies that old versions saved with ``save_pretrained``) have no
``patch_size`` in ``processor_config.json``: the library counted image tokens in the model then.
Without it a processor cannot compute how many tokens an image becomes. It is taken from the model's
configuration.

``AutoProcessor`` is tried first. It fails on two things that an image and a question do not need:

- **Videos.** The video processors (Qwen-VL, LLaVA-OneVision, InternVL, SmolVLM, GLM-V, Gemma 4)
  exist for torchvision only, and SmolVLM formats the length of a video with num2words. Without the
  package the processor is built from its parts, without its video processor.
- **Unneeded requirements.** PixtralProcessor (Pixtral, Mistral 3) requires torchvision and does not
  use it; transformers 5.17 hides the PIL classes of Idefics3 and SmolVLM. Both are imported from
  the module that defines them.

Every image processor that exists for PIL is loaded for PIL, whatever is installed: torchvision
resizes a little differently (by one grey level of a plain image, by twenty of one that is noise),
and a run must not depend on that. Such a processor turns an image into an array whose channels lie
next to each other, and normalizes it as a view with the channels first, which takes ten times as
long as in an array that is laid out so. It is copied into one before; the numbers are the same.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from vlmscope.errors import ModelError, VlmscopeError, one_line, typed_line
from vlmscope.model.loading.weights import check_files

FILE = "processor_config.json"
"""The file of a checkpoint that contains a processor's settings."""


def _grid(config: Any) -> int:
    vision = config.vision_config
    return int((_side(vision.image_size) // _side(vision.patch_size)) ** 2)


def _side(size: Any) -> Any:
    """Return one side of a square that may be given as both sides, as in InternVL."""
    square = isinstance(size, list | tuple) and len(size) > 0 and len(set(size)) == 1
    return size[0] if square else size


SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "patch_size": lambda config: _side(config.vision_config.patch_size),
    "vision_feature_select_strategy": lambda config: config.vision_feature_select_strategy,
    "num_image_tokens": _grid,
    "downsample_rate": lambda config: config.downsample_rate,
}
"""Processor setting without a default in the library → its value by the model's configuration."""

MADE_BY = "_vlmscope_made_by"
"""Attribute of a class that is made here: how it is made in another process, for ``pickle``."""

_CLASS_TOKENS = frozenset({"class_embedding", "cls_token", "class_token"})
"""Parameter names that vision encoders use for the embedding of a position that is not a patch."""


def complete_processor(processor: Any, config: Any, encoder: Any, name: str) -> None:
    """Set the processor's settings that its files do not contain.

    Args:
        processor: The processor; changed in place.
        config: The model's configuration.
        encoder: The vision encoder: it may have a position that is not a patch.
        name: The checkpoint, for the message.

    Raises:
        ModelError: The configuration does not contain a setting either.
    """
    taken = signature(type(processor).__init__).parameters
    missing = [key for key in SETTINGS if key in taken and getattr(processor, key, 0) is None]
    for key in missing:
        try:
            value = SETTINGS[key](config)
        except (AttributeError, TypeError, ZeroDivisionError) as error:
            raise ModelError(
                f"{name}: {FILE} has no {key!r}, and it cannot be derived from config.json "
                f"({error}); add it to {FILE}"
            ) from error
        setattr(processor, key, value)
    extra = "num_additional_image_tokens"
    if "patch_size" in missing and extra in taken and not getattr(processor, extra):
        names = {path.rpartition(".")[2] for path, _ in encoder.named_parameters()}
        setattr(processor, extra, int(bool(names & _CLASS_TOKENS)))


def defaulted_settings(processor: Any, name: str, revision: str | None) -> str:
    """Return, for an error message, the numeric settings for which library defaults are used.

    Args:
        processor: The processor.
        name: Folder of the checkpoint, or a hub id.
        revision: Its commit.
    """
    try:
        given, _ = type(processor).get_processor_dict(name, revision=revision)
    except (OSError, ValueError, json.JSONDecodeError):
        given = {}
    absent = [
        f"{key} (using {getattr(processor, key)})"
        for key, parameter in signature(type(processor).__init__).parameters.items()
        if isinstance(parameter.default, int | float)
        and not isinstance(parameter.default, bool)
        and key not in given
        and hasattr(processor, key)
    ]
    return f"{FILE} does not give {', '.join(absent)}" if absent else ""


_ONE_LIST = ("GotOcr2Processor",)
"""Processors that expect the images of all rows in one flat list, and treat a list of lists as the
pages of one document with a single placeholder."""


def load_processor(name: str | Path, revision: str | None = None) -> Any:
    """Return the processor of a checkpoint: tokenizer, image processor for PIL, chat template.

    Without torchvision, the result may have no ``video_processor``; its class is then a subclass of
    the same name. Its outputs for images and text are the same.

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
    except Exception as error:  # unsuitable settings may raise anything in a processor class
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
    backends = _import("transformers.image_processing_backends")
    images = processor.image_processor
    if backends is not None and getattr(type(images), "rescale", 0) is backends.PilBackend.rescale:
        images.__class__ = _with_contiguous_images(type(images))
    if type(processor).__name__ in _ONE_LIST:
        processor.__class__ = _with_row_lists(type(processor))
    return processor


def _assemble(name: str, revision: str | None, first: Exception) -> Any:
    """Return the processor built from its parts, without the one for videos.

    Raises:
        ModelError: A part cannot be loaded; ``first`` is the error of ``AutoProcessor``.
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
    """Return the error for a processor that cannot be loaded, without options vlmscope lacks."""
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
    """Return the image processor ``kind`` for PIL, or None if there is none."""
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
    """Return class ``kind`` from the module that defines it, without the library's checks."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    for model_type in modules:
        folder = model_type_to_module_name(model_type)
        found = getattr(_import(f"transformers.models.{folder}.{prefix}_{folder}"), kind, None)
        if found is not None and found.__module__.endswith(f".{prefix}_{folder}"):
            return found
    return None


def import_modules(paths: Iterable[str]) -> None:
    """Import the modules that define a processor, also where they need more than is installed.

    Args:
        paths: Their names; modules that do not exist are left out.
    """
    for path in paths:
        _import(path)


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


def _with_row_lists(found: Any) -> Any:
    """Return a subclass of a processor class, of the same name, that takes a list per row."""

    def call(self: Any, images: Any = None, text: Any = None, **options: Any) -> Any:
        flat = None if images is None else [image for row in images for image in row]
        return found.__call__(self, images=flat, text=text, **options)

    members = {
        "__module__": found.__module__,
        "__doc__": found.__doc__,
        "__call__": call,
        MADE_BY: (_with_row_lists, (found,)),
    }
    return type(found.__name__, (found,), members)


def _with_contiguous_images(found: Any) -> Any:
    """Return a subclass of an image processor class, of the same name, with another memory layout.

    Its numbers are the same.
    """

    def rescale(self: Any, image: Any, scale: float, **options: Any) -> Any:
        contiguous = np.ascontiguousarray(image) if isinstance(image, np.ndarray) else image
        return found.rescale(self, contiguous, scale, **options)

    members = {
        "__module__": found.__module__,
        "__doc__": found.__doc__,
        "rescale": rescale,
        MADE_BY: (_with_contiguous_images, (found,)),
    }
    return type(found.__name__, (found,), members)


def _without_videos(found: Any) -> Any:
    """Return a subclass of a processor class, of the same name, that needs no video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        if name == "video_processor":
            return None
        return found.check_argument_for_proper_class(self, name, part)

    # SmolVLM reads the first two whenever it renders a chat; MiniCPM-V the next two when it is
    # built; Qwen-Omni ``merge_size`` in transformers 5.17; the library ``model_input_names``.
    stand_in = SimpleNamespace(
        num_frames=None,
        fps=None,
        slice_mode=None,
        downsample_mode=None,
        merge_size=1,
        model_input_names=[],
    )
    members = {
        "__module__": found.__module__,
        "__doc__": found.__doc__,
        "check_argument_for_proper_class": check,
        "video_processor": property(lambda _: stand_in, lambda _self, _part: None),
        MADE_BY: (_without_videos, (found,)),
    }
    return type(found.__name__, (found,), members)


@contextmanager
def _without_num2words(found: Any) -> Iterator[None]:
    """Let SmolVLM's processor be built without num2words, which it calls for videos only.

    The replacement writes digits.
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
