"""The manifest of a run: the model, the table, the settings, the versions."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from vlmscope.dataset import InMemory, TableScan, absolute_data, absolute_name
from vlmscope.errors import ModelError
from vlmscope.executors.request import Request
from vlmscope.model import ResolvedSpec, VisionLanguageModel, resolve_spec
from vlmscope.model.fingerprint import hash_json, hash_processor
from vlmscope.model.loading.generation import hash_generation
from vlmscope.prompt import chat_template, prompt_time
from vlmscope.schema import FieldSpec
from vlmscope.signals import TOKEN_STATES
from vlmscope.store import CaptureRecord, DataRecord, Manifest, ModelRecord, StoreDtype
from vlmscope.version import __version__

_MAPPED = ("id", "image", "question", "target")

_LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "h5py", "numpy", "pillow", "peft",
    "bitsandbytes", "flash-attn-4",
)  # fmt: skip


def capture_record(spec: ResolvedSpec) -> CaptureRecord:
    """Return the record of what is captured."""
    return CaptureRecord(
        spec.layers,
        spec.positions,
        spec.vision_pooling,
        spec.max_new_tokens,
        spec.compat,
        spec.layer_states,
        spec.signals.names,
        dict(spec.signals.widths) or None,
        spec.signals.attention_layers,
        spec.signals.attention_heads,
        spec.signals.cross_attention_layers,
        spec.signals.tiles,
        samples=spec.signals.sampling.count,
        temperature=spec.signals.sampling.temperature,
        seed=spec.signals.sampling.seed,
    )


def states_dtype(request: Request) -> StoreDtype:
    """Return the type that states of several tokens are stored in: float16 unless one is given."""
    recorded = not set(TOKEN_STATES).isdisjoint(request.spec.signals)
    return (request.store_dtype or "float16") if recorded else "float16"


def make_manifest(request: Request, scan: TableScan, vlm: VisionLanguageModel) -> Manifest:
    """Return the manifest of a new run."""
    return Manifest(
        run_id=uuid.uuid4().hex,
        model=describe_model(vlm),
        capture=capture_record(resolve_spec(request.spec, vlm)),
        data=DataRecord(
            path=absolute_data(request.data),
            images=absolute(request.images) if request.images else None,
            fields=_fields_record(request.fields),
            fingerprint=scan.fingerprint,
            text_only=request.text_only,
            in_memory=isinstance(request.data, InMemory),
        ),
        dtype=str(vlm.dtype).removeprefix("torch."),
        store_dtype=request.store_dtype or "float32",
        states_dtype=states_dtype(request),
        attention=vlm.attention,
        device=_describe_device(vlm),
        versions=_versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _fields_record(spec: FieldSpec) -> dict[str, str | bool | None]:
    """Return the mapping of columns, and the other options about columns that were given."""
    record = asdict(spec)
    return {name: value for name, value in record.items() if name in _MAPPED or value}


def describe_model(vlm: VisionLanguageModel) -> ModelRecord:
    """Return the record that identifies the model.

    Raises:
        ModelError: It was not loaded by ``load_model``.
    """
    if vlm.identity is None:
        raise ModelError(f"{vlm.name}: the source of the weights is unknown; load it by load_model")
    return ModelRecord(
        name=absolute(vlm.name),
        type=vlm.family.model_type,
        config_hash=vlm.identity.config_hash,
        weights_hash=vlm.identity.weights_hash,
        processor_hash=hash_processor(vlm.processor),
        chat_template_hash=hash_json(chat_template(vlm.processor)),
        generation_hash=hash_generation(vlm.model),
        num_layers=vlm.num_layers,
        hidden_size=vlm.hidden_size,
        vision_size=vlm.vision_size,
        revision=vlm.revision,
        image_token_id=vlm.image_token_id,
        description=vlm.description,
        adapter=None if vlm.adapter is None else absolute(vlm.adapter),
        quantization=vlm.quantization,
        weight_files=vlm.identity.weight_files,
        prompt_time=prompt_time(vlm.processor),
    )


def absolute(name: str) -> str:
    """Return the absolute path of a local name, so that later commands find it from any folder.

    A saved dataset may be named ``folder:split``.
    """
    return absolute_name(name)


def _describe_device(vlm: VisionLanguageModel) -> str:
    import torch

    if vlm.device.type == "cuda":
        return f"{vlm.device} ({torch.cuda.get_device_name(vlm.device)})"
    return str(vlm.device)


def _versions() -> Mapping[str, str]:
    found = {"vlmscope": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
