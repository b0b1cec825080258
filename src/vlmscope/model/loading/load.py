"""Load a checkpoint through ``from_pretrained``, and check it once.

Nothing is guessed silently: an architecture that does not follow the conventions, weights that are
missing from the checkpoint (``transformers`` would initialise them randomly) or an unavailable
device each raise a one-line error with what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vlmscope.errors import InputError, ModelError, VlmscopeError, one_line, option_of, typed_line
from vlmscope.locking import model_lock
from vlmscope.model.attention.implementations import (
    AUTO,
    choose_attention,
    is_chosen_by_library,
    no_sdpa,
)
from vlmscope.model.computing import start_clean, undone_at_exit
from vlmscope.model.encoder_widths import pad_encoder_widths
from vlmscope.model.families import (
    Family,
    check_version,
    described,
    find_family,
    read_description,
    resolve,
    undescribed_family,
)
from vlmscope.model.fingerprint import Fingerprinting
from vlmscope.model.lengths import find_bands, forget_lengths
from vlmscope.model.loading.adapters import CONFIG, attach_adapter, check_adapter
from vlmscope.model.loading.batching import (
    check_rule,
    keep_lone_token,
    with_smallest_image,
    with_verified_packing,
    with_verified_rule,
)
from vlmscope.model.loading.checks import check_model_parts
from vlmscope.model.loading.corrections import (
    disable_causal_attention,
    join_tiles,
    number_images_by_row,
)
from vlmscope.model.loading.device import auto_class, check_kind, choose_device_map, choose_dtype
from vlmscope.model.loading.discovery import with_found_parts
from vlmscope.model.loading.generation import make_greedy
from vlmscope.model.loading.names import check_name, why_not_loaded
from vlmscope.model.loading.processors import complete_processor, load_processor
from vlmscope.model.loading.quantization import (
    check_device,
    check_quantize,
    fix_bitsandbytes_defaults,
    quantization_options,
    rounding_of,
)
from vlmscope.model.loading.thinker import prepare_thinker, thinker_of
from vlmscope.model.loading.thresholds import with_verified_lengths
from vlmscope.model.loading.weights import check_file, check_files, pickled_only, without_pickles
from vlmscope.model.support import is_tested
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.model_options import ModelOptions
from vlmscope.progress_bars import without_bars
from vlmscope.prompt import chat_template
from vlmscope.shown_once import forget_shown


def load_model(
    name: str | PathLike[str],
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    attention: str = AUTO,
    family: str | Path | Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
    quantize: str | None = None,
    allow_pickle_weights: bool = False,
) -> VisionLanguageModel:
    """Load a vision-language model and its processor, and check them on one blank image.

    Other threads cannot run a model meanwhile: loading changes global settings of torch.

    Args:
        name: Folder of a checkpoint, or a hub id.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on a GPU that has it,
            float32 on a CPU.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``spread`` (layers over all GPUs), or
            ``auto``: the first GPU, spread where the weights do not fit on it, else the CPU.
        revision: Branch, tag or commit of a hub repository.
        attention: Attention implementation: ``sdpa`` or ``eager``, or ``auto``: for each part
            ``sdpa`` where it has one, else ``eager``.
        family: TOML file, or its content, that describes the architecture where it does not follow
            the conventions.
        adapter: Folder of a LoRA adapter that peft saved; the processor stays the checkpoint's.
        quantize: ``4bit`` or ``8bit``: quantise the weights with bitsandbytes during loading.
        allow_pickle_weights: Also read weights from pickles (``pytorch_model.bin``), not only from
            safetensors.

    Raises:
        InputError: The description cannot be read.
        ModelError: The checkpoint cannot be loaded or does not match its family's description, the
            adapter does not fit it, or a package for either is missing.
    """
    options = ModelOptions(
        dtype, device, revision, attention, family, adapter, quantize, allow_pickle_weights
    )
    given = given_model(name)
    if isinstance(given, VisionLanguageModel):
        raise InputError(f"--model: {given.name} is loaded already; use it as it is")
    return load_with(given, options)


def given_model(
    model: str | PathLike[str] | VisionLanguageModel,
) -> str | VisionLanguageModel:
    """Return a loaded model as it is, and the folder or hub id of one as text.

    Raises:
        InputError: It is neither, but a model of transformers for example.
    """
    if isinstance(model, VisionLanguageModel):
        return model
    if isinstance(model, str | PathLike):
        return str(model)
    raise InputError(
        f"--model: found {type(model).__name__}, expected the folder of a checkpoint, a hub id, or "
        "a model that vlmscope loaded"
    )


def load_with(name: str, options: ModelOptions) -> VisionLanguageModel:
    """Load a model as ``load_model`` does, with its arguments in ``options``."""
    check_name(name)
    family, adapter, quantize = options.family, options.adapter, options.quantize
    with without_library_bars(), Fingerprinting(name, adapter) as fingerprint:
        config, revision = load_config(name, options.revision)
        _check_architecture(name, config)
        description, known = _describe(family, config)
        check_quantize(quantize, name, config)
        plain, attention_of = choose_attention(options.attention, name, config)
        if adapter is not None:
            check_adapter(adapter)
        kind = choose_dtype(options.dtype, options.device)
        _check_repository(name, revision)
        fingerprint.begin(config, revision, pickles=options.allow_pickle_weights)
        with model_lock():  # loading changes the default dtype, torch.load and more
            start_clean()
            target = choose_device_map(options.device, config, kind, quantize)
            check_device(quantize, name, config, target)
            processor = _load_processor(name, revision)  # cheap, and it may need a package
            model = load_weights(
                name, plain, target, pickles=options.allow_pickle_weights, dtype=kind,
                attn_implementation=attention_of, revision=revision,
                **quantization_options(quantize, kind, config),
            )  # fmt: skip
            fix_bitsandbytes_defaults(model)
            if adapter is not None:
                attach_adapter(model, adapter, name)
            _set_generation(model, processor.tokenizer)
            made = VisionLanguageModel(
                model,
                processor,
                resolve(known or undescribed_family(config), model, name),
                name,
                revision,
                description=description,
                adapter=None if adapter is None else str(adapter),
                quantization=rounding_of(model),
                identity=fingerprint.finish(rounding_of(model)),
            )
            return _checked(made)


def _describe(
    family: str | Path | Mapping[str, Any] | None, config: Any
) -> tuple[Mapping[str, Any] | None, Family | None]:
    """Return the given description, and the family that it defines for a checkpoint."""
    if family is None:
        return None, find_family(config)
    if isinstance(family, str | Path):
        description = read_description(family)
        return description, described(description, config, family)
    return family, described(family, config, "")


def loaded(
    model: str | PathLike[str] | VisionLanguageModel, options: ModelOptions
) -> VisionLanguageModel:
    """Return a model: loaded with the options, or unchanged if it is loaded already.

    Raises:
        InputError: It is loaded already, and there are options.
        ModelError: The checkpoint cannot be used.
    """
    if not isinstance(model, VisionLanguageModel):
        return load_with(str(model), options)
    refuse_options(options)
    return model


def refuse_options(options: ModelOptions) -> None:
    """Raise an error if loading options are given for a model that is loaded already.

    Raises:
        InputError: One is given.
    """
    if options.given:
        raise InputError(
            f"{option_of(options.given[0])}: the model is loaded already; load it with that option "
            "instead"
        )


def _set_generation(model: Any, tokenizer: Any) -> None:
    """Make a loaded model decode greedily, and set a thinker's end token."""
    prepare_thinker(model, tokenizer.eos_token_id)
    make_greedy(model, tokenizer.pad_token_id)


def _check_architecture(name: str, config: Any) -> None:
    """Check that an architecture takes questions about images, correctly in this transformers.

    Raises:
        ModelError: It does not.
    """
    check_kind(name, config)
    check_version(find_family(config), name)


def without_library_bars() -> contextlib.AbstractContextManager[None]:
    """Hide the progress bars of transformers and hub downloads if stderr is no terminal."""
    from transformers.utils import logging as library

    return without_bars(
        library.is_progress_bar_enabled, library.disable_progress_bar, library.enable_progress_bar
    )


def _checked(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Run the checks of a loaded model; return it with the verified batching rule and lengths.

    Raises:
        ModelError: A check failed.
    """
    forget_shown()  # warnings are repeated for each model
    _correct_library(vlm)
    forget_lengths(vlm.model)
    with contextlib.suppress(AttributeError):  # an invalid path: ``check_model_parts`` reports it
        complete_processor(vlm.processor, vlm.model.config, vlm.vision_encoder, vlm.name)
    known = find_family(vlm.model.config) is not None
    tested = is_tested(vlm.family, vlm.model.config)
    if not tested:
        vlm = with_found_parts(vlm, encoder=not known)
    vision_size, lens_fault = check_model_parts(vlm)
    vlm = replace(vlm, vision_size=vision_size, lens_fault=lens_fault)
    pad_encoder_widths(vlm)
    vlm = replace(vlm, lengths=find_bands(vlm.model, without=vlm.vision_encoder))
    if vlm.description is not None or not known:
        vlm = with_verified_packing(vlm)
    if vlm.quantization == "8bit":  # 8-bit models are not batched
        return vlm
    verified = tested and is_chosen_by_library(vlm.model)
    if "vision_rows" in (vlm.description or {}):
        check_rule(vlm)
    elif vlm.description is not None or not verified:
        vlm = with_verified_rule(vlm)
    if not known:
        vlm = with_smallest_image(vlm)
    return vlm if verified else with_verified_lengths(vlm)


def _correct_library(vlm: VisionLanguageModel) -> None:
    """Correct, in a loaded model, the errors that the library has in its family."""
    family = vlm.family
    if family.wrongly_causal:
        disable_causal_attention(vlm.vision_encoder)
    if family.numbers_images_of_batch:
        number_images_by_row(vlm.model.base_model)
    if family.squeezes_tokens and vlm.projector is not None:
        keep_lone_token(vlm.projector)
    if family.stacks_tiles:
        join_tiles(vlm.processor)


def load_config(name: str, revision: str | None) -> tuple[Any, str | None]:
    """Return the configuration, and the hub commit that all other files must come from.

    For an Omni checkpoint it is the thinker's configuration.
    """
    from transformers import AutoConfig

    check_name(name)
    folder = Path(name)
    if folder.is_dir():
        check_files(folder)
        if not os.path.lexists(folder / "config.json"):
            raise ModelError(
                f"{name}: the folder has no config.json; give that of a complete checkpoint"
            )
        for file in ("config.json", "tokenizer.json"):
            if os.path.lexists(folder / file):
                check_file(folder, file)
    try:
        revision = _commit(name, revision)
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # a configuration class may raise anything on unsuitable values
        raise ModelError(why_not_loaded(name, error)) from error
    return thinker_of(config), revision


def _commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a revision of a hub repository currently is; None for a folder.

    A branch may change between two downloads. The commit is the name of the folder in the hub's
    cache that contains the configuration: transformers 5.23 does not return it, as 5.17 did.

    Raises:
        OSError: The repository has no configuration, or cannot be reached.
    """
    from transformers.utils import cached_file

    if Path(name).is_dir():
        return None
    found = Path(str(cached_file(name, "config.json", revision=revision)))
    return found.parent.name if found.parent.parent.name == "snapshots" else revision


def _check_repository(name: str, revision: str | None) -> None:
    """Raise an error for a hub repository with an adapter: any commit of its base would load."""
    from transformers.utils import cached_file, is_peft_available

    if Path(name).is_dir() or not is_peft_available():
        return
    try:
        found = Path(str(cached_file(name, CONFIG, revision=revision)))
        base = json.loads(found.read_text("utf-8"))["base_model_name_or_path"]
    except OSError:
        return  # there is none
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{name}: {CONFIG} cannot be read: {one_line(error)}") from error
    raise ModelError(
        f"{name}: is an adapter of {base}; give --model {base}, and a folder with the adapter as "
        "--adapter"
    )


def _load_processor(name: str, revision: str | None) -> Any:
    """Return the processor; without a padding token it pads with the end token, which is masked.

    Raises:
        ModelError: It has no chat template that writes the same prompt each time, or no token to
            pad with.
    """
    processor = load_processor(name, revision)
    try:
        chat_template(processor)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"{name}: the tokenizer has neither a padding nor an end-of-sequence token; "
                "set pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def load_weights(
    name: str, config: Any, device: str, *, pickles: bool, loader: Any = None, **options: Any
) -> Any:
    """Return the model in evaluation mode.

    Args:
        name: Folder of the checkpoint, or a hub id.
        config: Its configuration, loaded.
        device: A torch device, or ``spread``.
        pickles: Whether weights may be pickles.
        loader: The transformers class that loads it; by default that of image-text models.
        **options: Passed to ``from_pretrained``.

    Raises:
        ModelError: It cannot be loaded, does not fit, or lacks weights.
    """
    try:
        with (
            contextlib.nullcontext() if pickles else without_pickles(name),
            undone_at_exit(partial(torch.set_default_dtype, torch.get_default_dtype())),
        ):
            model, info = (loader or auto_class(config)).from_pretrained(
                name,
                config=config,
                device_map="auto" if device == "spread" else device,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=None if pickles else True,
                **options,
            )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name}: the weights do not fit on {device}: {one_line(error)}"
        ) from error
    except SafetensorError as error:
        raise ModelError(f"{name}: damaged weight file: {one_line(error)}") from error
    except VlmscopeError:
        raise
    except Exception as error:  # as in ``load_config``
        if "does not support an attention implementation through" in str(error):
            raise ModelError(no_sdpa(name, str(error).split()[0])) from error
        if "cannot be loaded with `safetensors`" in str(error):  # a hub repository without them
            raise pickled_only(name, "it has no safetensors files") from error
        raise ModelError(
            f"{name}: cannot load the weights, or they do not fit the configuration: "
            f"{typed_line(error)}"
        ) from error
    _check_complete(name, model, info, device)
    return model.eval()


def _check_complete(name: str, model: Any, info: Mapping[str, Any], device: str) -> None:
    """Raise an error for weights that are missing from the checkpoint or not on a GPU."""
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name}: the checkpoint lacks {len(missing)} weights, {missing[0]} for example, "
            "which would be random; download it again"
        )
    devices = {str(part) for part in getattr(model, "hf_device_map", {}).values()}
    if offloaded := sorted(devices & {"cpu", "disk"}) if device == "spread" else []:
        raise ModelError(
            f"{name}: does not fit on the GPUs, parts would go to {' and '.join(offloaded)}; "
            "use more GPUs or a smaller --dtype"
        )
