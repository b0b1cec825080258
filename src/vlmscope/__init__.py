"""Extract hidden states from vision-language models, and predict hallucinations from them.

The names below are imported when they are first used, so that ``import vlmscope`` is quick and does
not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlmscope.version import __version__ as __version__

if TYPE_CHECKING:
    from vlmscope.api.capturing import capture
    from vlmscope.api.checking import inspect, load_probe, verify
    from vlmscope.api.extracting import FailedRowsWarning, extract
    from vlmscope.api.runs import Labelled, Run, StaleLabelsWarning, open_run
    from vlmscope.dataset import Share, read_samples
    from vlmscope.detectors import (
        Detection,
        DetectionTransfer,
        Detector,
        detect,
        read_detection,
        save_detection,
        transfer_detection,
    )
    from vlmscope.errors import (
        EarlierVersionError,
        InputError,
        ModelChangedError,
        ModelError,
        RowError,
        RowNumberError,
        RunBusyError,
        RunMismatchError,
        StoreError,
        TableChangedError,
        ToleranceError,
        UnknownIdError,
        UnreachableError,
        VlmscopeError,
    )
    from vlmscope.executors import Observer
    from vlmscope.inspection import Inspection
    from vlmscope.labelling import label
    from vlmscope.model import VisionLanguageModel, load_model
    from vlmscope.probes import ProbeInfo
    from vlmscope.report import ReportSpec, WrittenReport, write_report
    from vlmscope.risk import Risk, RiskScorer
    from vlmscope.sampling import SampledAnswer
    from vlmscope.schema import Capture, CaptureSpec, Failure, FieldSpec, Sample, Score
    from vlmscope.store import export_run, read_labels
    from vlmscope.sweeps import (
        LabelAgreement,
        SweepResult,
        SweepSpec,
        TransferResult,
        compare,
        compare_labels,
        save_sweep,
        save_transfer,
        sweep,
        transfer,
    )
    from vlmscope.verification import RowCheck

__all__ = [
    "Capture",
    "CaptureSpec",
    "Detection",
    "DetectionTransfer",
    "Detector",
    "EarlierVersionError",
    "FailedRowsWarning",
    "Failure",
    "FieldSpec",
    "InputError",
    "Inspection",
    "LabelAgreement",
    "Labelled",
    "ModelChangedError",
    "ModelError",
    "Observer",
    "ProbeInfo",
    "ReportSpec",
    "Risk",
    "RiskScorer",
    "RowCheck",
    "RowError",
    "RowNumberError",
    "Run",
    "RunBusyError",
    "RunMismatchError",
    "Sample",
    "SampledAnswer",
    "Score",
    "Share",
    "StaleLabelsWarning",
    "StoreError",
    "SweepResult",
    "SweepSpec",
    "TableChangedError",
    "ToleranceError",
    "TransferResult",
    "UnknownIdError",
    "UnreachableError",
    "VisionLanguageModel",
    "VlmscopeError",
    "WrittenReport",
    "capture",
    "compare",
    "compare_labels",
    "detect",
    "export_run",
    "extract",
    "inspect",
    "label",
    "load_model",
    "load_probe",
    "open_run",
    "read_detection",
    "read_labels",
    "read_samples",
    "save_detection",
    "save_sweep",
    "save_transfer",
    "sweep",
    "transfer",
    "transfer_detection",
    "verify",
    "write_report",
]

_HOMES = {
    "Capture": "schema",
    "CaptureSpec": "schema",
    "Detection": "detectors",
    "DetectionTransfer": "detectors",
    "Detector": "detectors",
    "EarlierVersionError": "errors",
    "FailedRowsWarning": "api.extracting",
    "Failure": "schema",
    "FieldSpec": "schema",
    "InputError": "errors",
    "Inspection": "inspection",
    "LabelAgreement": "sweeps",
    "Labelled": "api.runs",
    "ModelChangedError": "errors",
    "ModelError": "errors",
    "Observer": "executors",
    "ProbeInfo": "probes",
    "ReportSpec": "report",
    "Risk": "risk",
    "RiskScorer": "risk",
    "RowCheck": "verification",
    "RowError": "errors",
    "RowNumberError": "errors",
    "Run": "api.runs",
    "RunBusyError": "errors",
    "RunMismatchError": "errors",
    "Sample": "schema",
    "SampledAnswer": "sampling",
    "Score": "schema",
    "Share": "dataset",
    "StaleLabelsWarning": "api.runs",
    "StoreError": "errors",
    "SweepResult": "sweeps",
    "SweepSpec": "sweeps",
    "TableChangedError": "errors",
    "ToleranceError": "errors",
    "TransferResult": "sweeps",
    "UnknownIdError": "errors",
    "UnreachableError": "errors",
    "VisionLanguageModel": "model",
    "VlmscopeError": "errors",
    "WrittenReport": "report",
    "capture": "api.capturing",
    "compare": "sweeps",
    "compare_labels": "sweeps",
    "detect": "detectors",
    "export_run": "store",
    "extract": "api.extracting",
    "inspect": "api.checking",
    "label": "labelling",
    "load_model": "model",
    "load_probe": "api.checking",
    "open_run": "api.runs",
    "read_detection": "detectors",
    "read_labels": "store",
    "read_samples": "dataset",
    "save_detection": "detectors",
    "save_sweep": "sweeps",
    "save_transfer": "sweeps",
    "sweep": "sweeps",
    "transfer": "sweeps",
    "transfer_detection": "detectors",
    "verify": "api.checking",
    "write_report": "report",
}

_MODULES = (
    "detectors", "errors", "metrics", "model", "positions", "schema", "score", "signals", "store",
)  # fmt: skip
"""Modules that are attributes without being imported first."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"vlmscope.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmscope' has no attribute {name!r}")
    value = getattr(import_module(f"vlmscope.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
