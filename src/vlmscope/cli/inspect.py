"""``vlmscope inspect``: one sample, shown like the example in the specification."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.inspect_maps import MapLine, read_maps, show_maps
from vlmscope.cli.output import quiet_libraries, shape_text, show, show_note, status, stdout
from vlmscope.model_options import ModelOptions
from vlmscope.positions import REPRESENTATIONS, VISION_ONLY
from vlmscope.schema import Capture, Sample
from vlmscope.shown import plain
from vlmscope.signals import TOKEN_STATISTICS, RecordedSignals

_MARKS = {
    "last_image_token": ("◄ vision_token_boundary", "bold cyan"),
    "last_prompt_token": ("◄ query_token_boundary", "bold magenta"),
}

_LENS_TOKENS = 5
"""Number of tokens of the logit lens that are shown of each position and layer."""


def inspect(
    data: options.Data,
    model: options.Model,
    id_: Annotated[
        str | None,
        typer.Option("--id", help="Question id (default: the first row).", show_default=False),
    ] = None,
    images: options.Images = None,
    fields: options.Map = [],  # noqa: B006 - typer copies it
    records: options.Records = None,
    image_pattern: options.ImagePattern = None,
    question_template: options.QuestionTemplate = None,
    number_rows: options.NumberRows = False,
    text_only: options.TextOnly = False,
    layers: options.Layers = "all",
    positions: options.Positions = options.POSITIONS,
    vision_pooling: options.VisionPooling = "all",
    max_new_tokens: options.MaxNewTokens = options.MAX_NEW_TOKENS,
    compat: options.Compat = "",
    signals: options.Signals = options.SIGNALS_DEFAULT,
    samples: options.Samples = 0,
    temperature: options.Temperature = options.TEMPERATURE,
    seed: options.Seed = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = "auto",
    revision: options.Revision = None,
    family: options.FamilyFile = None,
    adapter: options.Adapter = None,
    quantize: options.Quantize = None,
    allow_absolute_paths: options.AllowAbsolutePaths = False,
    allow_pickle_weights: options.AllowPickleWeights = False,
    as_json: options.Json = False,
) -> None:
    """Explain one row: its prompt, tokens, shapes, norms and answer.

    It also shows the boundaries, that is the positions at which hidden states are read, and image
    tiles.
    The position last_image_token is that of vision_token_representation, last_prompt_token that of
    query_token_representation.
    """
    from vlmscope.dataset import open_table, parse_mapping

    quiet_libraries()
    mapping = parse_mapping(
        fields, records=records, image_pattern=image_pattern,
        question_template=question_template, number_rows=number_rows,
    )  # fmt: skip
    table = open_table(
        options.one_or_several(data), images=images, fields=mapping, text_only=text_only,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    row = _find(table, id_)
    from vlmscope.inspection import inspect_sample
    from vlmscope.model import load_with, resolve_spec

    loading = ModelOptions(
        dtype, device, revision, attention, family, adapter, quantize, allow_pickle_weights
    )
    spec = options.build_spec(layers, positions, vision_pooling, max_new_tokens, compat, signals,
                              samples, temperature, seed)  # fmt: skip
    with status("loading the model"):
        vlm = load_with(model, loading)
    resolved = resolve_spec(spec, vlm)
    for note in resolved.notes:
        show_note(note)
    seen = inspect_sample(row, vlm, resolved)
    lens = read_lens(seen.capture, resolved.signals, vlm.processor.tokenizer)
    if as_json:
        maps = read_maps(seen.capture, resolved.signals)
        stdout.print_json(json.dumps(as_record(seen, lens, maps)))
        return
    _show_input(seen)
    _show_tokens(seen)
    _show_shapes(seen)
    # As in transformers, ``hidden_states[-1]`` is the output of the final norm.
    normed = vlm.num_layers - 1 if resolved.layer_states == "hidden_states[k+1]" else None
    _show_vectors(seen, normed)
    _show_signals(seen.capture.signals, lens)
    show_maps(seen.capture, resolved.signals)
    _show_answer(seen, vlm)


def _find(table: Any, id_: str | None) -> Sample:
    """Return the row with this id, or the first, whose images are there.

    Imports torch, which takes seconds: mistakes in the names of columns are found before.
    """
    from vlmscope.api.checking import find_row
    from vlmscope.dataset import check_headers

    row = find_row(table, id_)
    check_headers(row)
    return row


@dataclass(frozen=True, slots=True)
class LensLine:
    """The logit lens at a position and a layer."""

    position: str
    layer: int
    tokens: tuple[tuple[str, float], ...]
    """The likeliest tokens, each with its probability."""


def read_lens(capture: Capture, signals: RecordedSignals, tokenizer: Any) -> list[LensLine]:
    """Return the logit lens, position by position and layer by layer; empty if not recorded."""
    from vlmscope.store import lens_of

    return [
        LensLine(position, layer, tuple((tokenizer.decode([token]), prob) for token, prob in found))
        for position, layers in lens_of(capture, signals, _LENS_TOKENS).items()
        for layer, found in zip(signals.lens_layers, layers, strict=True)
    ]


def as_record(
    seen: Any, lens: Sequence[LensLine] = (), maps: Sequence[MapLine] = ()
) -> dict[str, Any]:
    """Return an inspection as plain JSON values: vectors by shape and norm, not by value."""
    capture = seen.capture
    return {
        "id": seen.sample.id,
        "image_id": seen.sample.image_id,
        "question": seen.sample.question,
        "chat_text": seen.chat_text,
        "tokens": [asdict(token) for token in seen.tokens],
        "boundaries": dict(capture.boundaries),
        "tiles": None if seen.tiles is None else list(seen.tiles),
        "inputs": {name: list(shape) for name, shape in seen.inputs.items()},
        "outputs": {name: list(shape) for name, shape in seen.outputs.items()},
        "vectors": {
            name: {"shape": list(vector.shape), "norm": seen.norms[name]}
            for name, vector in capture.vectors.items()
        },
        "signals": {name: list(array.shape) for name, array in capture.signals.items()},
        "numbers": {
            name: float(array) if math.isfinite(array) else None
            for name, array in capture.signals.items()
            if not array.ndim
        },
        "lens": [asdict(line) for line in lens],
        "attention_maps": [asdict(line) for line in maps],
        "first_token_entropy": capture.first_token_entropy,
        "finish_reason": capture.finish_reason,
        "answer": capture.answer,
        "samples": [
            {
                "text": sample.text,
                "tokens": len(sample.token_ids),
                "logprob": float(sample.logprobs.sum()),
                "finish_reason": sample.finish_reason,
            }
            for sample in capture.samples
        ],
    }


def _show_input(seen: Any) -> None:
    sample = seen.sample
    grid = Table.grid(padding=(0, 2))
    for name, text in {
        "id": sample.id, "image": sample.image_id, "question": sample.question,
        "ground truth": sample.target, "image input": _image_text(seen),
    }.items():  # fmt: skip
        grid.add_row(Text(name, style="dim"), Text(text))
    show(grid)
    rows, columns = seen.tiles or (0, 0)
    for row in range(rows):
        stdout.print(" ".join(f"[tile {row * columns + c}]" for c in range(columns)))
    show(Panel(Text(seen.chat_text), title="chat text", title_align="left"))


def _image_text(seen: Any) -> str:
    """Return the model input for the images: tiles if the family has them, else image tokens."""
    if not seen.sample.images:
        return "none: no vision representations"
    several = f"{len(seen.sample.images)} images, " if len(seen.sample.images) > 1 else ""
    if seen.tiles:
        rows, columns = seen.tiles
        size = shape_text(seen.inputs["pixel_values"][-2:])
        first = several and f"{several}the first: "
        return f"{first}{rows} × {columns} tiles of {size} pixels"
    return f"{several}{seen.num_image_tokens:,} image tokens"


def _show_tokens(seen: Any) -> None:
    table = Table(title="Tokens", title_justify="left", box=None, pad_edge=False)
    for heading in ("position", "id", "text", ""):
        table.add_column(
            heading,
            header_style="dim",
            justify="right" if heading in {"position", "id"} else "left",
            overflow="fold",
        )
    for (_, names), group in groupby(seen.tokens, key=lambda token: (token.id, token.marks)):
        first, *more = group  # an image may have thousands of equal tokens
        marks = [_MARKS.get(mark, (f"◄ {mark}", "cyan")) for mark in names]
        table.add_row(
            f"{first.position}–{more[-1].position}" if more else str(first.position),
            str(first.id),
            Text(repr(first.text)[1:-1] + (f"  × {1 + len(more):,}" if more else "")),
            Text(", ".join(text for text, _ in marks)),
            style=marks[0][1] if marks else "",
        )
    show(table)


def _show_shapes(seen: Any) -> None:
    _show_pairs("Model inputs", {name: shape_text(s) for name, s in seen.inputs.items()})
    _show_pairs("Outputs of the prefill", {name: shape_text(s) for name, s in seen.outputs.items()})


def _show_pairs(title: str, pairs: Mapping[str, str]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, text in pairs.items():
        table.add_row(name, text)
    show(table)


def _show_vectors(seen: Any, normed: int | None) -> None:
    """Print one row per layer, one column per position, as norms.

    Args:
        seen: The inspection.
        normed: The layer whose vectors are after the final norm, if there is one.
    """
    vectors, norms = seen.capture.vectors, seen.norms
    if VISION_ONLY in vectors:
        stdout.print(
            f"{VISION_ONLY} {shape_text(vectors[VISION_ONLY].shape)}, norm {norms[VISION_ONLY]:.4g}"
        )
    groups = {
        position: name
        for position, name in REPRESENTATIONS.items()
        if any(v.startswith(f"{name}/") for v in vectors)
    }
    if not groups:
        return
    first = next(iter(groups.values()))
    layers = [v.split("/")[1] for v in vectors if v.startswith(f"{first}/")]
    width = vectors[f"{first}/{layers[0]}"].shape
    table = Table(title=f"Norms of the recorded vectors, {shape_text(width)} each",
                  title_justify="left", box=None, pad_edge=False)  # fmt: skip
    for heading in ("layer", *_headings(list(groups), stdout.width - len(layers[-1]))):
        table.add_column(heading, header_style="dim", overflow="fold")
    for layer in layers:
        table.add_row(layer, *(f"{norms[f'{name}/{layer}']:.4g}" for name in groups.values()))
    show(table)
    if f"layer_{normed}" in layers:
        show(Text(f"layer_{normed}: after the final norm", style="dim"))
    for position, name in groups.items():
        if name != f"{position}_representation":
            show(Text(f"{position}: stored as {name}", style="dim"))


def _show_signals(arrays: Mapping[str, Any], lens: Sequence[LensLine]) -> None:
    """Print the shapes of the arrays of signals, and the logit lens.

    The lens is a table for each position: one row per layer with its likeliest tokens.
    """
    if shown := [name for name in arrays if name not in TOKEN_STATISTICS]:
        _show_pairs("Signals", {name: _shape_or_number(arrays[name]) for name in shown})
    for position, lines in groupby(lens, key=lambda line: line.position):
        table = Table(title=f"Logit lens at {position}", title_justify="left", box=None,
                      pad_edge=False)  # fmt: skip
        table.add_column("layer", header_style="dim", justify="right")
        table.add_column("likeliest tokens with their probabilities", header_style="dim",
                         overflow="fold")  # fmt: skip
        for line in lines:
            tokens = (f"{text!r} {plain(prob, 2)}" for text, prob in line.tokens)
            table.add_row(str(line.layer), Text("  ".join(tokens)))
        show(table)


def _shape_or_number(array: Any) -> str:
    """Return the shape of an array, or its value if it is one number."""
    return shape_text(array.shape) if array.ndim else plain(float(array), 3)


def _headings(positions: list[str], width: int) -> list[str]:
    r"""Return positions as column headings, broken between words if they are too wide together.

    >>> _headings(["image_mean", "answer_mean"], 80), _headings(["image_mean", "answer_mean"], 20)
    (['image_mean', 'answer_mean'], ['image_\nmean', 'answer_\nmean'])
    """
    if sum(len(name) + 1 for name in positions) <= width:
        return positions
    return [name.replace("_", "_\n") for name in positions]


def _show_answer(seen: Any, vlm: Any) -> None:
    capture = seen.capture
    tokens = [
        f"{vlm.processor.tokenizer.decode([int(token)])!r} {plain(float(logprob), 2)}"
        for token, logprob in zip(
            capture.first_token_ids[:5], capture.first_token_logprobs, strict=False
        )
    ]
    _show_pairs("First token", {
        "entropy": f"{plain(capture.first_token_entropy, 3)} nats",
        "most likely, log-probability": ", ".join(tokens),
    })  # fmt: skip
    if capture.answer is not None:
        title = (
            f"answer: {len(capture.answer_token_ids)} tokens, finish reason {capture.finish_reason}"
        )
        show(Panel(Text(capture.answer), title=title, title_align="left"))
    for number, sample in enumerate(capture.samples):
        title = (
            f"sample {number}: {len(sample.token_ids)} tokens, log-probability "
            f"{plain(float(sample.logprobs.sum()), 2)}, finish reason {sample.finish_reason}"
        )
        show(Panel(Text(sample.text), title=title, title_align="left"))
