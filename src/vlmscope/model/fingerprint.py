"""The identity of a model, as hashes, so that a run never mixes rows of two models under one name.

The weights are identified by the files they are read from: by name within the checkpoint, size and
SHA-256 of all bytes (``weights`` defines which files those are, ``checksums`` why that takes
seconds once and less afterwards). The path of a checkpoint makes no difference: a copy, a folder of
links and the hub's own cache are one model, and so are two commits of a hub repository that differ
in other files. A LoRA adapter or quantisation at loading changes the identity.

A large file in the hub's cache is named after its SHA-256. That name is checked, not trusted: a
plain HTTP download is compared with its size only, and a file may be damaged or overwritten later.
An unfinished download has another name (``.incomplete``), to which no snapshot links.

Hashing begins before the weights are loaded and continues in parallel; at the end every file must
be the same as at the beginning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vlmscope.errors import ModelError, one_line
from vlmscope.model.loading.adapters import CONFIG, WEIGHTS, check_settings
from vlmscope.model.loading.checksums import Checksumming, Stamp, changed, stamp_of
from vlmscope.model.loading.weights import find_adapter_weights, find_weights

_VOLATILE = frozenset(
    {"_name_or_path", "transformers_version", "_commit_hash", "dtype", "torch_dtype"}
)
"""Entries of a configuration that depend on where it was loaded."""
_VOLATILE_OF_ADAPTERS = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "task_type"}
)
"""The same for an adapter's configuration."""


def hash_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON.

    >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_config(name: str, revision: str | None = None) -> str:
    """Return the hash of a checkpoint's configuration file.

    The file is hashed, not the loaded configuration, to which each version of transformers adds
    entries.
    """
    from transformers import PreTrainedConfig

    stored, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    return hash_json(_without_volatile(stored))


def hash_processor(processor: Any) -> str:
    """Return the hash of image preprocessing and tokenizer, classes included.

    The class is included because the PIL and torchvision backends differ by up to one grey level.
    """
    images = processor.image_processor
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    # Arguments of the last call, not properties of the tokenizer.
    state = {"padding", "truncation"}
    return hash_json([
        type(images).__name__,
        _without_volatile(images.to_dict()),
        {name: part for name, part in tokenizer.items() if name not in state},
    ])  # fmt: skip


def hash_adapter_config(folder: Path) -> str:
    """Return the hash of the settings that define how a LoRA adapter's tensors are applied."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    return hash_json({
        # peft writes sets of names, in arbitrary order.
        name: sorted(value, key=str) if isinstance(value, list) else value
        for name, value in config.items()
        if name not in _VOLATILE_OF_ADAPTERS
    })  # fmt: skip


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list | tuple):
        return [_without_volatile(item) for item in value]
    return value


_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a loaded model. Models with equal hashes give the same numbers."""

    config_hash: str
    weights_hash: str
    """Hash of all files, the adapter with its settings, and the quantisation."""
    weight_files: Mapping[str, str]
    """Name of each file → its SHA-256, to find out which one differs."""
    stamps: Mapping[Path, Stamp] = field(default_factory=dict, repr=False, compare=False)
    """The stamp of each file when it was read."""

    def rewritten(self) -> Path | None:
        """Return a weight file that was overwritten in place since the model was loaded.

        On a CPU a model computes with its files, mapped into memory. Replacing or removing a file
        does not affect a process that has it open.
        """
        for path, stamp in self.stamps.items():
            now = _stamp(path)
            if now is not None and now[:2] == stamp[:2] and now[2:4] != stamp[2:4]:
                return path
        return None


class Fingerprinting:
    """Computes the identity of a model in threads while it is loaded; a context manager.

    Args:
        name: Folder of the checkpoint, or a hub id.
        adapter: Folder of the LoRA adapter, if there is one.
    """

    def __init__(self, name: str, adapter: str | Path | None) -> None:
        self._name = name
        self._adapter = None if adapter is None else Path(adapter)
        self._stamps: dict[Path, Stamp] = {}
        self._files: dict[str, Path] = {}
        self._settings: list[str | None] = []
        self._sums: Checksumming | None = None
        self._is_local = Path(name).is_dir()
        self._record_stamp(Path(name) / "config.json")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel hashing that is not finished."""
        if self._sums is not None:
            self._sums.cancel()

    def begin(self, config: Any, revision: str | None, *, pickles: bool) -> None:
        """Find the weight files and start hashing them; call it before they are loaded.

        Args:
            config: The checkpoint's configuration, loaded.
            revision: Commit of a hub repository.
            pickles: Whether weights may be pickles.

        Raises:
            ModelError: A folder has no weights, or none in a supported format.
        """
        self._sources = config, revision, pickles
        self._config_hash = hash_config(self._name, revision)
        # Files that are not in the hub's cache yet are downloaded when the model is loaded.
        with contextlib.nullcontext() if self._is_local else contextlib.suppress(ModelError):
            self._start(self._find())

    def finish(self, quantization: str) -> Identity:
        """Return the identity; call it when everything is loaded.

        Args:
            quantization: What the weights were quantised to; may be empty.

        Raises:
            ModelError: A file was changed meanwhile, or is damaged.
        """
        if self._sums is None or not self._is_local:
            self._start(self._find())
        assert self._sums is not None  # noqa: S101 - mypy
        sums = self._sums.result()
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise changed(path)
        for name, path in self._files.items():
            _check_name(path, sums[name].sha256)
        content = {name: [found.size, found.sha256] for name, found in sums.items()}
        return Identity(
            config_hash=self._config_hash,
            weights_hash=hash_json([content, self._settings, quantization]),
            weight_files={name: found.sha256 for name, found in sums.items()},
            stamps={path: self._stamps[path] for path in self._files.values()},
        )

    def _folder(self) -> Path:
        """Return the folder of the checkpoint's files: for a hub id, in the hub's cache."""
        from transformers.utils import cached_file

        if self._is_local:
            return Path(self._name)
        _, revision, _ = self._sources
        try:
            config = cached_file(
                self._name, "config.json", revision=revision, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self._name}: not found in the hub's cache: {one_line(error)}"
            ) from error
        return Path(str(config)).parent

    def _adapters(self) -> tuple[Path | None, Path | None]:
        """Return the folders of the checkpoint's own adapter, which peft adds, and of ours."""
        from transformers.utils import is_peft_available

        folder = self._folder()
        has_own = is_peft_available() and (folder / CONFIG).is_file()
        return folder if has_own else None, self._adapter

    def _find(self) -> dict[str, Path]:
        """Return all files that weights are read from: name in the identity → path."""
        config, _, pickles = self._sources
        folder = self._folder()
        files = {name: folder / name for name in find_weights(folder, config, pickles=pickles)}
        own, ours = self._adapters()
        if own is not None:
            check_settings(own, f"{own}: the adapter in it")
            name = find_adapter_weights(own, pickles=pickles)
            files[name] = own / name
        if ours is not None:
            files[f"adapter//{WEIGHTS}"] = ours / WEIGHTS  # not a possible name in a checkpoint
        return files

    def _start(self, files: dict[str, Path]) -> None:
        """Start hashing files, unless they are being hashed already."""
        if files == self._files:
            return
        if self._sums is not None:
            self._sums.cancel()
        self._files = files
        adapters = self._adapters()
        for path in (*files.values(), *(folder / CONFIG for folder in adapters if folder)):
            self._record_stamp(path)
        self._settings = [hash_adapter_config(folder) if folder else None for folder in adapters]
        self._sums = Checksumming(files)

    def _record_stamp(self, path: Path) -> None:
        """Record the current stamp of a file, if it exists: it must be the same at the end."""
        if (stamp := _stamp(path)) is not None:
            self._stamps.setdefault(path, stamp)


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path.stat())
    except (OSError, ValueError):
        return None


def _check_name(path: Path, sha256: str) -> None:
    """Raise an error for a file of the hub's cache whose hash differs from its name.

    Only the first link counts: a blob may itself be a link to a file with another name.
    """
    path = Path(os.path.realpath(path.parent)) / path.name
    blob = path.readlink() if path.is_symlink() else Path()
    of_hub = blob.parent.name == "blobs" and "snapshots" in path.parts
    if of_hub and _SHA256.fullmatch(blob.name) and blob.name != sha256:
        raise ModelError(
            f"{path}: differs from the hub's file: its SHA-256 is {sha256[:16]}…, the hub's is "
            f"{blob.name[:16]}…; remove {os.path.normpath(path.parent / blob)} and load the "
            "model again, which downloads it"
        )
