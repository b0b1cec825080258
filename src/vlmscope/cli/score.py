"""``vlmscope score``: the risk of a hallucination, before a token is generated."""

from __future__ import annotations

import json
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track

from vlmscope.cli import options
from vlmscope.cli.extract import parse_batch_size
from vlmscope.cli.output import count, quiet_libraries, show_note, status, stderr, stdout
from vlmscope.cli.paths import check_file
from vlmscope.errors import InputError, RowError
from vlmscope.schema import Failure, Sample

if TYPE_CHECKING:
    from vlmscope.probes import ProbeInfo
    from vlmscope.risk import Risk, RiskScorer


def score(
    model: options.Model,
    probe: Annotated[
        Path,
        typer.Option(
            "--probe",
            "-p",
            metavar="PATH",
            parser=options.path_or_url,
            help="Folder of a saved probe, a probed run, or RUN/probes-<name> for a named label "
            "set.",
            show_default=False,
        ),
    ],
    image: Annotated[
        str | None,
        typer.Argument(
            help='An image file; several are a JSON list: \'["a.png", "b.png"]\'. For a question '
            "without an image, omit it and pass --text-only.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Argument(help="The question about the image.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A table of questions instead of one.", show_default=False),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            help="Image root (default: the folder of the table; for IMAGE the current folder).",
            show_default=False,
        ),
    ] = None,
    fields: options.Map = [],  # noqa: B006 - typer copies it
    records: options.Records = None,
    image_pattern: options.ImagePattern = None,
    question_template: options.QuestionTemplate = None,
    number_rows: options.NumberRows = False,
    text_only: options.TextOnly = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Parquet file for the risks of --data (default: print JSON lines).",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Risk above which an answer is flagged (default: the probe's own).",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Only the first N rows of the table.", show_default=False),
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Rows that go through the model together, or auto.")
    ] = "auto",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = "auto",
    revision: options.Revision = None,
    adapter: options.Adapter = None,
    allow_absolute_paths: options.AllowAbsolutePaths = False,
    allow_pickle_weights: options.AllowPickleWeights = False,
    as_json: options.Json = False,
) -> None:
    """Predict the risk of a hallucination, before the answer.

    The risk is the probability that the answer would be a hallucination. Only the prefill is
    run. The probe must be trained on the same model and prompt; --dtype auto uses the type it
    was trained with.
    """
    from vlmscope.dataset import parse_mapping

    _check_what(image, data, out)
    sample = None if image is None else _read_sample(image, question, images, text_only)
    if out is not None:
        check_file(out, source=data)
    quiet_libraries()
    mapping = parse_mapping(
        fields, records=records, image_pattern=image_pattern,
        question_template=question_template, number_rows=number_rows,
    )  # fmt: skip
    table = None if data is None else _open(
        data, images=images, fields=mapping, limit=limit, text_only=text_only,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    from vlmscope.risk import RiskScorer  # imports torch, which takes seconds

    if sample is not None:
        _check_kind(probe, sample)
    with status("loading the model"):
        scorer = RiskScorer.load(
            model, probe, dtype=dtype, device=device, attention=attention, revision=revision,
            adapter=adapter, threshold=threshold, allow_pickle_weights=allow_pickle_weights,
            batch_size=parse_batch_size(batch_size),  # type: ignore[arg-type]
        )  # fmt: skip
    trained = scorer.info.model.get("dtype", scorer.dtype)
    if trained != scorer.dtype:
        stderr.print(
            f"the probe was trained on vectors in {trained}, the model computes in {scorer.dtype}: "
            "risks will differ a little"
        )
    if scorer.note:
        show_note(scorer.note)
    _note_stale(probe)
    if sample is not None:
        _score_one(scorer, sample, as_json)
        return
    failed = _score_table(scorer, table, out)
    if failed:
        raise typer.Exit(3)


def _note_stale(probe: Path) -> None:
    """Print a note if labels or rows of a run changed since its probes were trained."""
    from vlmscope.store import DEFAULT, label_sets, open_run
    from vlmscope.sweeps import read_sweep
    from vlmscope.sweeps.save import PROBES

    run, labels = probe, DEFAULT
    if probe.name.startswith(f"{PROBES}-") and not (probe / "run.json").is_file():
        run, labels = probe.parent, probe.name.removeprefix(f"{PROBES}-")
    if (run / "run.json").is_file() and labels in (DEFAULT, *label_sets(run)):
        found = read_sweep(open_run(run), labels)
        if found is not None and found.stale:
            stderr.print(f"{probe}: its probes are out of date: {found.stale}")


def _check_what(image: str | None, data: str | None, out: Path | None) -> None:
    """Refuse arguments that are neither one question nor a table."""
    if (data is None) == (image is None):
        raise InputError("score: give an IMAGE and a QUESTION, or --data with a table of them")
    if out is not None and data is None:
        raise InputError("--out: is for --data; the risk of one question is printed")
    if out is not None and out.suffix != ".parquet":
        raise InputError(f"--out {out}: name it .parquet, or omit it to print JSON lines")


def _read_sample(image: str, question: str | None, images: str | None, text_only: bool) -> Sample:
    """Read the arguments of one question; with ``text_only`` a single one is the question."""
    from vlmscope.dataset import check_headers, read_images

    alone = "pass --text-only and only the QUESTION if it is about no image"
    if question is None and text_only and not isfile(image):  # noqa: PTH113 - any length will do
        image, question = "", image
    if question is None:
        raise InputError(
            f"score: a QUESTION is missing; put it in quotes after the IMAGE, or {alone}"
        )
    try:
        opened = read_images(image, folder=images)
    except RowError as error:
        raise InputError(f"score: {error}") from error
    if not opened and not text_only:
        raise InputError(f"score: the IMAGE is empty; write a path, or {alone}")
    sample = Sample("question", opened, question)
    check_headers(sample)
    return sample


def _check_kind(probe: Path, sample: Sample) -> None:
    """Refuse a question that the probe gives no risk to, before the model is loaded."""
    from vlmscope.risk.probe_of import reason_without_risk
    from vlmscope.risk.scorer import read_saved_probe

    info = read_saved_probe(probe).info
    if why := reason_without_risk(info, has_image=bool(sample.images)):
        raise RowError("input", why)


def _open(data: str, **options: Any) -> Any:
    """Open the table and read it once, so that bad tables are refused before the model loads."""
    from vlmscope.dataset import open_table

    table = open_table(data, **options)
    scan = table.scan()
    return table.as_scanned(scan), len(scan.ids)


def _score_one(scorer: RiskScorer, sample: Sample, as_json: bool) -> None:
    [found] = scorer.score([sample])
    if isinstance(found, Failure):
        raise RowError(found.stage, found.error)
    if as_json:
        record = {"risk": found.risk, "flagged": found.flagged, "threshold": scorer.threshold}
        stdout.print_json(json.dumps(record))
        return
    verdict = "flagged" if found.flagged else "not flagged"
    stdout.print(f"risk {found.risk:.1%}, {verdict} (threshold {scorer.threshold:.1%})")
    stdout.print(meaning(scorer.info, scorer.threshold), style="dim")


def _score_table(scorer: RiskScorer, opened: Any, out: Path | None) -> int:
    """Score every row of a table, print or write the risks, and return how many rows failed."""
    from vlmscope.dataset import UntilChanged
    from vlmscope.store import write_table

    table, number = opened
    rows = UntilChanged(table.rows())
    stderr.print(meaning(scorer.info, scorer.threshold), style="dim")
    shown = track(scorer.score(rows), "scoring", number, console=stderr, transient=True,
                  disable=not stderr.is_terminal)  # fmt: skip
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "risk", "flagged", "error")}
    failed = flagged = of_other_kind = 0
    for found in shown:
        record = as_record(found)
        of_other_kind += is_of_other_kind(scorer.info, record["error"])
        failed += record["error"] is not None
        flagged += record["flagged"] is True
        if out is None:
            stdout.print(json.dumps(record, ensure_ascii=False))
            continue
        for name, values in columns.items():
            values.append(record[name])
    if not rows.is_whole:
        rows.raise_error()
    stderr.print(
        f"{count(number - failed, 'question')} scored, {flagged:,} flagged above "
        f"{scorer.threshold:.1%}; {count(failed, 'row')} failed"
    )
    if of_other_kind:
        show_note(_other_kind_note(scorer.info, of_other_kind))
    if out is not None:
        stdout.print(str(write_table(out, columns)))
    rows.raise_error()
    return failed


def as_record(found: Risk | Failure) -> dict[str, Any]:
    """Return a result as plain data, with the same keys for a risk and for a failure."""
    if isinstance(found, Failure):
        return {"id": found.id, "risk": None, "flagged": None, "error": found.error}
    return {"id": found.id, "risk": found.risk, "flagged": found.flagged, "error": None}


def is_of_other_kind(info: ProbeInfo, error: str | None) -> bool:
    """Return whether a row failed because the probe learned from none like it."""
    from vlmscope.risk.probe_of import other_kind

    other = other_kind(info)
    return other is not None and error is not None and error.endswith(other[1])


def _other_kind_note(info: ProbeInfo, number: int) -> str:
    """Return the note on rows that are questions of another kind than the probe's."""
    rows, have = count(number, "row"), "have" if number > 1 else "has"
    if info.images == "all":
        return (
            f"{rows} {have} no image and no risk: the probe was trained on questions with an image "
            "only"
        )
    return (
        f"{rows} {have} an image and no risk: the probe was trained on questions without an image "
        "only"
    )


def meaning(info: ProbeInfo, threshold: float) -> str:
    """Return the source of the probe and the meaning of its threshold as text."""
    position = info.representation.removesuffix("_representation").replace("_", " ")
    where = position if info.layer is None else f"{position}, layer {info.layer}"
    numbers = info.metrics
    text = f"probe: {where}; trained on {info.rows:,} answers"
    if "auroc" in numbers:
        text += f", AUROC {numbers['auroc']:.3f}"
    if "auroc_of_best_layer" in numbers:
        text += f", AUROC {numbers['auroc_of_best_layer']:.3f}, of the best of its layers"
    if "prevalence" in numbers:
        text += f", {numbers['prevalence']:.1%} of them hallucinated"
    if threshold == info.threshold and {"false_alarms", "recall"} <= set(numbers):
        text += (
            f"; the threshold flags {numbers['recall']:.0%} of the hallucinated and "
            f"{numbers['false_alarms']:.0%} of the faithful"
        )
    if info.calibration is not None and info.calibration[0] == 0:
        text += "; it learned nothing, every question gets the same risk"
    return text
