"""LoRA adapters: small matrices added to a checkpoint's weights, as ``peft`` saves them.

``peft`` adds the adapter inside the model's modules, next to their weights: nothing is merged or
rounded, every module keeps its path, and hooks work as without it. It is loaded by ``peft`` and not
by transformers' ``load_adapter``, which drops DoRA's magnitudes (5.23, peft 0.21).
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vlmscope.errors import ModelError, one_line
from vlmscope.locking import warnings_lock
from vlmscope.model.loading.weights import check_file, check_files
from vlmscope.regular import read_regular

CONFIG = "adapter_config.json"
"""The adapter's configuration: rank, target modules."""
WEIGHTS = "adapter_model.safetensors"
"""The adapter's tensors."""


def check_adapter(folder: str | Path) -> None:
    """Raise an error if a folder is not a supported adapter, before the model is loaded.

    Raises:
        ModelError: There is no such folder, it lacks a file, its weights are a pickle, it is not a
            LoRA adapter, or peft is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"--adapter {folder}: no such folder")
    check_files(folder)
    if not os.path.lexists(folder / CONFIG):
        raise ModelError(
            f"--adapter {folder}: the folder has no {CONFIG}; give the folder that peft saved"
        )
    if not os.path.lexists(folder / WEIGHTS):
        pickled = ", only adapter_model.bin, a pickle, which may run code when it is read;"
        found = pickled if (folder / "adapter_model.bin").is_file() else ";"
        raise ModelError(
            f"--adapter {folder}: the folder has no {WEIGHTS}{found} save it as safetensors"
        )
    check_file(folder, CONFIG)
    check_file(folder, WEIGHTS)
    check_settings(folder, f"--adapter {folder}")
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"--adapter {folder} needs peft, which cannot be imported ({one_line(error)}): "
            "pip install peft"
        ) from error


def check_settings(folder: Path, name: str) -> None:
    """Raise an error for settings that are not those of a plain LoRA, or that would run code.

    Args:
        folder: The folder of the settings.
        name: How to name the folder in the message.

    Raises:
        ModelError: They cannot be read, or are those of another kind of adapter.
    """
    try:
        config = json.loads(read_regular(folder / CONFIG).decode())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{name}: {CONFIG} cannot be read: {one_line(error)}") from error
    if kind != "LORA":
        raise ModelError(f"{name}: is an adapter of type {kind}; only LORA is supported")
    # peft imports the module that megatron_core names, whatever it is.
    if config.get("megatron_config"):
        raise ModelError(f"{name}: is made for Megatron (megatron_config), which is not supported")
    # Activated LoRA looks for its tokens in every call; without that it would always be active.
    if config.get("alora_invocation_tokens"):
        raise ModelError(
            f"{name}: is an activated LoRA (alora_invocation_tokens), which is not supported"
        )


def attach_adapter(model: Any, folder: str | Path, name: str) -> None:
    """Attach a LoRA adapter to a loaded model and activate it.

    Args:
        model: The ``transformers`` model; changed in place, in evaluation mode afterwards.
        folder: The adapter; see ``check_adapter``.
        name: The model, for the message.

    Raises:
        ModelError: The adapter does not fit the model, or is damaged.
    """
    from peft import PeftModel

    try:
        with warnings_lock(), warnings.catch_warnings():
            # peft 0.21 reads a property of transformers 5.23 by its deprecated name.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            wrapped = PeftModel(model, _read_config(folder))
        found = wrapped.load_adapter(str(folder), "default", torch_device="cpu")
    except SafetensorError as error:
        raise ModelError(f"--adapter {folder}: damaged {WEIGHTS}: {one_line(error)}") from error
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _misfit(folder, name, one_line(error)) from error
    if found.unexpected_keys:
        raise _misfit(folder, name, f"the model has no module for {found.unexpected_keys[0]}")
    if found.missing_keys:
        raise _misfit(folder, name, f"it lacks {found.missing_keys[0]}, which would be random")
    model.eval()


def _read_config(folder: str | Path) -> Any:
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    return config


def _misfit(folder: str | Path, name: str, what: str) -> ModelError:
    return ModelError(
        f"--adapter {folder}: does not fit {name}: {what}; give the --model it was trained on"
    )
