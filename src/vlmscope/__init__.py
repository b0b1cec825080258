"""Extract hidden states from vision-language models, and predict hallucinations from them.

The names below are imported when they are first used, so that ``import vlmscope`` is quick and does
not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlmscope.version import __version__ as __version__

if TYPE_CHECKING:
    from vlmscope.api.checking import inspect, load_probe, verify
    from vlmscope.api.extracting import extract
    from vlmscope.api.runs import Run, open_run
    from vlmscope.dataset import Share, read_samples
    from vlmscope.engine import capture
    from vlmscope.errors import VlmscopeError
    from vlmscope.labelling import label
    from vlmscope.model import VisionLanguageModel, load_model
    from vlmscope.report import ReportSpec, write_report
    from vlmscope.risk import RiskScorer
    from vlmscope.schema import Capture, CaptureSpec, Failure, FieldSpec, Sample
    from vlmscope.store import export_run, read_labels
    from vlmscope.sweeps import (
        SweepSpec,
        compare,
        compare_labels,
        save_sweep,
        save_transfer,
        sweep,
        transfer,
    )

__all__ = [
    "Capture",
    "CaptureSpec",
    "Failure",
    "FieldSpec",
    "ReportSpec",
    "RiskScorer",
    "Run",
    "Sample",
    "Share",
    "SweepSpec",
    "VisionLanguageModel",
    "VlmscopeError",
    "capture",
    "compare",
    "compare_labels",
    "export_run",
    "extract",
    "inspect",
    "label",
    "load_model",
    "load_probe",
    "open_run",
    "read_labels",
    "read_samples",
    "save_sweep",
    "save_transfer",
    "sweep",
    "transfer",
    "verify",
    "write_report",
]

_HOMES = {
    "Capture": "schema",
    "CaptureSpec": "schema",
    "Failure": "schema",
    "FieldSpec": "schema",
    "ReportSpec": "report",
    "RiskScorer": "risk",
    "Run": "api.runs",
    "Sample": "schema",
    "Share": "dataset",
    "SweepSpec": "sweeps",
    "VisionLanguageModel": "model",
    "VlmscopeError": "errors",
    "capture": "engine",
    "compare": "sweeps",
    "compare_labels": "sweeps",
    "export_run": "store",
    "extract": "api.extracting",
    "inspect": "api.checking",
    "label": "labelling",
    "load_model": "model",
    "load_probe": "api.checking",
    "open_run": "api.runs",
    "read_labels": "store",
    "read_samples": "dataset",
    "save_sweep": "sweeps",
    "save_transfer": "sweeps",
    "sweep": "sweeps",
    "transfer": "sweeps",
    "verify": "api.checking",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmscope' has no attribute {name!r}")
    value = getattr(import_module(f"vlmscope.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
