"""What a checkpoint is identified by, without loading it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from vlmscope.model.identity import Fingerprinting, Identity


def identify(folder: Path, adapter: Path | None = None, *, pickles: bool = False) -> Identity:
    """Return the identity of a checkpoint, as if it had been loaded."""
    with Fingerprinting(str(folder), adapter) as fingerprint:
        fingerprint.begin(AutoConfig.from_pretrained(folder), None, pickles=pickles)
        return fingerprint.finish("")


def weights_hash(folder: Path, adapter: Path | None = None) -> str:
    """Return the hash of a checkpoint's weights."""
    return identify(folder, adapter).weights_hash
