"""Arguments that ``extract``, ``capture`` and ``inspect`` share, as the data they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlmscope.arguments import Layers
from vlmscope.dataset import parse_mapping
from vlmscope.errors import InputError, option_of, shortened
from vlmscope.positions import Positions
from vlmscope.schema import DEFAULT_LAYERS, CaptureSpec, Compat, FieldSpec, VisionPooling
from vlmscope.signals import Signals

Columns = Mapping[str, str | int | Sequence[str]]
"""Field (``id``, ``image``, ``question``, ``target``, ``category``) → its column, or several."""


def fields_of(
    columns: Columns | FieldSpec | None,
    records: str | None,
    image_pattern: str | None,
    question_template: str | None,
    *,
    number_rows: bool,
) -> FieldSpec:
    """Return the mapping of columns."""
    options = {
        "records": records, "image_pattern": image_pattern, "question_template": question_template,
        "number_rows": number_rows,
    }  # fmt: skip
    if isinstance(columns, FieldSpec):
        if given := [name for name, value in options.items() if value]:
            raise InputError(
                f"{option_of(given[0])}: give it in the FieldSpec, or --map as a dictionary"
            )
        return columns
    if not isinstance(columns, Mapping | None):
        raise InputError(f"--map {columns!r}: expected a dictionary such as {{'id': 'uid'}}")
    items = [f"{field}={_column(column)}" for field, column in (columns or {}).items()]
    return parse_mapping(items, **options)  # type: ignore[arg-type]


def _column(column: str | int | Sequence[str]) -> str:
    """Return a column, or several, as the command line writes them."""
    return str(column) if isinstance(column, str | int) else ",".join(column)


def spec_of(
    spec: CaptureSpec | None,
    layers: Layers,
    positions: Positions,
    vision_pooling: VisionPooling,
    max_new_tokens: int,
    compat: Compat,
    signals: Signals,
    samples: int,
    temperature: float,
    seed: int,
    *,
    all_layers: bool = False,
) -> CaptureSpec:
    """Return what to record; a specification is given whole, or not at all.

    Args:
        spec: The specification, instead of the other arguments.
        layers: Decoder layers.
        positions: Token positions.
        vision_pooling: How the vision encoder's output becomes one vector.
        max_new_tokens: Longest answer in tokens.
        compat: The method whose layers and positions are used.
        signals: What else to record.
        samples: Sampled answers of each question.
        temperature: Temperature of the samples.
        seed: Seed of the samples.
        all_layers: Whether all layers are the default.

    Raises:
        InputError: An argument is invalid, or is given beside ``spec``.
    """
    made = CaptureSpec(
        layers, positions, vision_pooling, max_new_tokens, compat, signals,
        samples, temperature, seed,
    )  # fmt: skip
    if spec is None:
        return made
    if not isinstance(spec, CaptureSpec):
        raise InputError(f"spec {shortened(repr(spec))}: expected a CaptureSpec")
    if made != CaptureSpec(layers="all" if all_layers else DEFAULT_LAYERS):
        raise InputError("spec: give it, or layers, positions and the like, and not both")
    return spec
