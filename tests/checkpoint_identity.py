"""Checkpoints in every layout, and what identifies them without loading them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from vlmscope.model.fingerprint import Fingerprinting, Identity

COMMIT = "c0ffee" + 34 * "0"
"""Commit of the repository in the hub's cache."""


def identify(folder: Path, adapter: Path | None = None, *, pickles: bool = False) -> Identity:
    """Return the identity of a checkpoint, as if it had been loaded."""
    with Fingerprinting(str(folder), adapter) as fingerprint:
        fingerprint.begin(AutoConfig.from_pretrained(folder), None, pickles=pickles)
        return fingerprint.finish("")


def weights_hash(folder: Path, adapter: Path | None = None) -> str:
    """Return the hash of a checkpoint's weights."""
    return identify(folder, adapter).weights_hash


def write_index(folder: Path, files: Mapping[str, object], kind: str = "model.safetensors") -> None:
    """Write an index that says in which file each tensor is."""
    content = {"metadata": {}, "weight_map": files}
    (folder / f"{kind}.index.json").write_text(json.dumps(content), "utf-8")


def split(
    folder: Path,
    names: Sequence[str] = ("one.safetensors", "two.safetensors"),
    *,
    kind: str = "model.safetensors",
) -> dict[str, str]:
    """Split a checkpoint's weights into files, and return what its index says."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files: dict[str, str] = {}
    for number, name in enumerate(names):
        part = {key: tensors[key] for key in sorted(tensors)[number :: len(names)]}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file(part, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)
        files |= dict.fromkeys(part, name)
    write_index(folder, files, kind)
    return files


def put_into_hub_cache(checkpoint: Path, cache: Path) -> Path:
    """Lay a checkpoint out as the hub's cache has ``owner/name``; return the snapshot's folder."""
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        name = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        (repository / "blobs" / name).write_bytes(content)
        (snapshot / file.name).symlink_to(f"../../blobs/{name}")
    return snapshot
