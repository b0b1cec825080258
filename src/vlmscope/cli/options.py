"""The options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from vlmscope.errors import InputError, VlmscopeError
from vlmscope.positions import DEFAULT_POSITIONS, REPRESENTATIONS
from vlmscope.sampling import DEFAULT_TEMPERATURE
from vlmscope.schema import DEFAULT_LAYERS, DEFAULT_MAX_NEW_TOKENS, CaptureSpec
from vlmscope.signals import DEFAULT_SIGNALS, PRESETS, SIGNALS

Data = Annotated[
    list[str],
    typer.Argument(
        help="Table of questions: .csv, .tsv, .jsonl, .json, .parquet, a pattern or several of "
        "these, a folder of tables, or a hub name; FOLDER:SPLIT is one split.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Folder of a checkpoint, or a hub id.", show_default=False),
]
ModelNow = Annotated[
    str | None, typer.Option("--model", "-m", help="Current path of the model.", show_default=False)
]
DataNow = Annotated[
    str | None, typer.Option("--data", help="Current path of the table.", show_default=False)
]


def one_or_several(names: list[str]) -> str | tuple[str, ...]:
    """Return the only name, or all of them.

    >>> one_or_several(["a.csv"]), one_or_several(["a.csv", "b.csv"])
    ('a.csv', ('a.csv', 'b.csv'))
    """
    return names[0] if len(names) == 1 else tuple(names)


class _UrlError(VlmscopeError):
    """A URL cannot be opened. Not a ``ValueError``: typer would replace its message."""

    exit_code = 2


def path_or_url(text: str) -> Path:
    """Return a path, or a ``UPath`` for the URL of an object store."""
    if "://" not in text:
        return Path(text)
    from vlmscope.store import as_path

    try:
        return as_path(text)
    except InputError as error:
        raise _UrlError(str(error)) from error


RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", parser=path_or_url, help="A run folder, or its URL.", show_default=False
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--images", help="Image root (default: the folder of the table).", show_default=False
    ),
]
Map = Annotated[
    list[str],
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        help="The column of a field: id, image, question, target or category. May be repeated. "
        "An id or the images may use several columns: --map id=set,figure.",
        show_default=False,
    ),
]
Records = Annotated[
    str | None,
    typer.Option(
        "--records",
        metavar="KEY",
        help="Key of a .json document that contains the rows (default: the only one with rows).",
        show_default=False,
    ),
]
ImagePattern = Annotated[
    str | None,
    typer.Option(
        "--image-pattern",
        metavar="PATTERN",
        help="Path of the image with columns in braces: 'val_{image:012d}.jpg'.",
        show_default=False,
    ),
]
QuestionTemplate = Annotated[
    str | None,
    typer.Option(
        "--question-template",
        metavar="TEMPLATE",
        help="Question with columns in braces, \\n for a line break: '{question} {options}'.",
        show_default=False,
    ),
]
NumberRows = Annotated[
    bool,
    typer.Option("--number-rows", help="Use the row numbers as ids: row_1, row_2 and so on."),
]
TextOnly = Annotated[
    bool,
    typer.Option(
        "--text-only",
        help="Accept rows without an image as text-only questions (default: they fail).",
    ),
]
AllowAbsolutePaths = Annotated[
    bool,
    typer.Option(
        "--allow-absolute-paths",
        help="Allow absolute image paths, and symbolic links out of the image root.",
    ),
]
AllowPickleWeights = Annotated[
    bool,
    typer.Option(
        "--allow-pickle-weights",
        help="Read weights that are pickles (.bin), from a source you trust.",
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        "--layers",
        help="Decoder layers: numbers, fractions of the depth n, slices, or all, with commas. "
        "layer_k is the output of block k.",
    ),
]
Positions = Annotated[
    str,
    typer.Option(
        "--positions", help=f"Token positions, with commas, from: {', '.join(REPRESENTATIONS)}."
    ),
]
VisionPooling = Annotated[
    str,
    typer.Option(
        "--vision-pooling",
        help="Mean over all positions of the vision encoder, or valid ones (no padding tiles).",
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        "--max-new-tokens", help="Longest answer in tokens; 0 stops after the prefill, no answer."
    ),
]
Compat = Annotated[
    str,
    typer.Option(
        "--compat",
        metavar="halp",
        help="Read layers and positions as the HALP research code does, if they are well defined "
        "(docs/halp.md).",
        show_default=False,
    ),
]
Signals = Annotated[
    str,
    typer.Option(
        "--signals",
        help=f"What else to record, with commas, from: {', '.join((*SIGNALS, *PRESETS, 'none'))} "
        "(docs/signals.md).",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples",
        metavar="K",
        help="Also sample K answers to each question, from the same prefill (docs/signals.md).",
    ),
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="Temperature of the sampled answers.")
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", help="Seed of the sampled answers: the same seed gives the same answers."
    ),
]
Dtype = Annotated[
    str,
    typer.Option("--dtype", help="float32, bfloat16, float16, or auto: bfloat16 on a GPU."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, mps, spread: layers over all GPUs, or auto: a GPU if there is "
        "one, several if needed.",
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        metavar="auto|sdpa|eager",
        help="Attention implementation; auto: sdpa, and eager for parts without sdpa.",
    ),
]
AttentionNow = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="auto|sdpa|eager",
        help="Attention implementation (default: that of the run).",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision", help="Branch, tag or commit of a hub checkpoint.", show_default=False
    ),
]
FamilyFile = Annotated[
    Path | None,
    typer.Option(
        "--family",
        help="TOML file that describes an architecture vlmscope does not support; see "
        "docs/adding-a-model.md.",
        show_default=False,
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option("--adapter", help="Folder of a LoRA adapter that peft saved.", show_default=False),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="4bit|8bit",
        help="Quantize the weights with bitsandbytes when loading.",
        show_default=False,
    ),
]
Folds = Annotated[int, typer.Option("--folds", help="Folds, grouped by --group-by.", min=3)]
Repeats = Annotated[
    int | None,
    typer.Option(
        "--repeats",
        help="Number of random splits into folds (default: 3 up to 20,000 rows, else 1).",
        min=1,
        show_default=False,
    ),
]
GroupBy = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="WHAT",
        help="Groups that no fold splits: image (near-copies included), question (its words), "
        "category or another column of the table.",
    ),
]
Copies = Annotated[
    str,
    typer.Option(
        "--copies",
        metavar="WHICH",
        help="Images that count as the same: near (also re-encoded, cropped, bordered, turned "
        "or mirrored copies) or exact (equal pixels only).",
    ),
]
Draws = Annotated[
    int, typer.Option("--draws", help="Resamples of the images for the intervals.", min=100)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

LAYERS = DEFAULT_LAYERS
POSITIONS = ", ".join(DEFAULT_POSITIONS)
MAX_NEW_TOKENS = DEFAULT_MAX_NEW_TOKENS
TEMPERATURE = DEFAULT_TEMPERATURE
SIGNALS_DEFAULT = ",".join(DEFAULT_SIGNALS)


def names(text: str) -> tuple[str, ...]:
    """Return the distinct names in a comma-separated text.

    >>> names("a, b, a,")
    ('a', 'b')
    """
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def build_spec(
    layers: str,
    positions: str,
    vision_pooling: str,
    max_new_tokens: int,
    compat: str = "",
    signals: str = SIGNALS_DEFAULT,
    samples: int = 0,
    temperature: float = DEFAULT_TEMPERATURE,
    seed: int = 0,
) -> CaptureSpec:
    """Return the spec for these options.

    >>> build_spec("all", "last_image_token, image_mean", "all", 0).positions
    ('last_image_token', 'image_mean')
    """
    return CaptureSpec(
        layers=layers,
        positions=names(positions),
        vision_pooling=cast("Any", vision_pooling),
        max_new_tokens=max_new_tokens,
        compat=cast("Any", compat),
        signals=names(signals),
        samples=samples,
        temperature=temperature,
        seed=seed,
    )
