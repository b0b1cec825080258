"""``capture``: what questions leave behind in a model, one by one, without a run."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike

from vlmscope.api.options import spec_of
from vlmscope.arguments import Layers, whole_number
from vlmscope.dataset import Mapped, fields_of
from vlmscope.engine import Rows, rows_of
from vlmscope.engine import capture as captures_of
from vlmscope.errors import RowError, naming_arguments
from vlmscope.model import VisionLanguageModel, given_model, loaded, resolve_spec
from vlmscope.model_options import ModelOptions
from vlmscope.positions import DEFAULT_POSITIONS, Positions
from vlmscope.sampling import DEFAULT_TEMPERATURE
from vlmscope.schema import (
    DEFAULT_LAYERS,
    DEFAULT_MAX_NEW_TOKENS,
    Capture,
    CaptureSpec,
    Compat,
    Failure,
    FieldSpec,
    Sample,
    VisionPooling,
)
from vlmscope.signals import DEFAULT_SIGNALS, Signals


@naming_arguments(samples="num_samples", model="vlm")
def capture(
    samples: Rows,
    vlm: str | PathLike[str] | VisionLanguageModel,
    spec: CaptureSpec | None = None,
    *,
    images: str | PathLike[str] | None = None,
    map: Mapped | FieldSpec | None = None,  # noqa: A002 - as in ``extract``
    records: str | None = None,
    image_pattern: str | None = None,
    question_template: str | None = None,
    number_rows: bool = False,
    text_only: bool = False,
    layers: Layers = DEFAULT_LAYERS,
    positions: Positions = DEFAULT_POSITIONS,
    vision_pooling: VisionPooling = "all",
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    compat: Compat = "",
    signals: Signals = DEFAULT_SIGNALS,
    num_samples: int = 0,
    temperature: float = DEFAULT_TEMPERATURE,
    seed: int = 0,
    batch_size: int = 8,
    allow_absolute_paths: bool = False,
) -> Iterator[Capture]:
    """Yield what each question leaves behind in one run through the model, in order.

    Arguments are checked, and the table opened, at once; rows are read as they are asked for.
    Several calls may be used at once, in threads or in turn.

    Args:
        samples: Samples, or a table as ``extract`` takes it.
        vlm: What ``load_model`` returned; or the folder of a checkpoint or a hub id, which is
            loaded for this call.
        spec: What to record; or give ``layers`` to ``seed`` instead.
        images: As in ``extract``, and so is everything below but ``batch_size``.
        map: See there.
        records: See there.
        image_pattern: See there.
        question_template: See there.
        number_rows: See there.
        text_only: See there.
        layers: See there.
        positions: See there.
        vision_pooling: See there.
        max_new_tokens: See there.
        compat: See there.
        signals: See there.
        num_samples: Sampled answers of each question: ``samples`` there.
        temperature: See there.
        seed: See there.
        batch_size: Questions that go through the model together. The result does not depend on it,
            beyond rounding.
        allow_absolute_paths: See there.

    Raises:
        InputError: The table or an argument is wrong.
        ModelError: The checkpoint cannot be used.
        RowError: A row cannot be captured. ``extract`` records such rows instead, and goes on.
    """
    whole_number("--batch-size", batch_size, least=1)
    wanted = spec_of(
        spec, layers, positions, vision_pooling, max_new_tokens, compat, signals,
        num_samples, temperature, seed,
    )  # fmt: skip
    fields = fields_of(map, records, image_pattern, question_template, number_rows=number_rows)
    given = given_model(vlm)
    rows = rows_of(
        samples, images=images, fields=fields, text_only=text_only,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    model = loaded(given, ModelOptions())
    resolve_spec(wanted, model)
    return captures_of(_good(rows), model, wanted, batch_size=batch_size)


def _good(rows: Iterator[Sample | Failure]) -> Iterator[Sample]:
    """Yield samples, up to the first row that is none.

    Raises:
        RowError: A row is not in order.
    """
    for row in rows:
        if isinstance(row, Failure):
            raise RowError(row.stage, row.error)
        yield row
