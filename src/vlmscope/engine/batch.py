"""From samples to a batch of tensors on the CPU: the part of the work that needs no model.

A row with an invalid image or prompt becomes a ``Failure`` here and the others continue, so a batch
for the model contains valid rows only. Rows with different numbers of images are batched
separately, and so are rows of different length bands (``model/lengths.py``). This runs ahead of the
model, in other threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL.Image import Image
from torch import Tensor

from vlmscope.dataset import difference_hash, hash_image, image_thumbnail
from vlmscope.engine.image_rows import with_image_rows
from vlmscope.engine.inputs import open_image
from vlmscope.engine.shared_prefix import (
    SharedPrefix,
    SharedTokens,
    check,
    distinct_enough,
    is_checked,
    preprocessing_of,
    with_shared_prefix,
)
from vlmscope.errors import InputError, RowError
from vlmscope.model import Preprocessing, ResolvedSpec, VisionLanguageModel, resolve_spec
from vlmscope.model.device_copies import pinned
from vlmscope.model.image_grids import SIZES, TILES
from vlmscope.model.lengths import ALONE
from vlmscope.prompt import (
    DistinctImages,
    control_tokens,
    count_after_question,
    encode,
    image_order,
    plain_tokens,
    render,
)
from vlmscope.schema import CaptureSpec, Failure, Sample, failure_of
from vlmscope.shown_once import shown_once

PIXELS_AT_ONCE = 2**28
"""Decoded pixels that a batch may keep in memory, 1 GiB in Pillow; a batch with more is split."""


_BEGINNING = "beginning/"
"""Before the name of an input of the prompts' beginnings."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples that are run through the model together, and their inputs."""

    samples: tuple[Sample, ...]
    """The rows, in order."""
    inputs: dict[str, Tensor]
    """Outputs of the processor, floating tensors in the model's dtype, on the CPU. Those named in
    ``deduplicated`` have one entry per distinct image; ``model_inputs`` has one per row."""
    chat_texts: tuple[str, ...]
    """The rendered prompts."""
    image_hashes: tuple[str, ...]
    """SHA-256 of each row's decoded images, joined by ``+``, in the order of the sample."""
    image_dhashes: tuple[str, ...]
    """Perceptual hashes of each row's images, joined by ``+``."""
    image_thumbnails: tuple[str, ...]
    """Thumbnails of each row's images, joined by ``+``."""
    images: tuple[int, ...]
    """Number of images that each row's prompt shows, the same for all rows."""
    shown_hashes: tuple[str, ...]
    """SHA-256 of the images in the order in which the prompt shows them, joined by ``+``; rows
    with equal ones may share a pass of the vision encoder."""
    shown_sizes: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Height and width of these images."""
    after_question: tuple[int, ...] = ()
    """Number of tokens of each prompt after the question, if a position needs it."""
    deduplicated: tuple[str, ...] = ()
    """Names of inputs that depend on the images alone and have one entry per distinct one."""
    entries: tuple[int, ...] = ()
    """Index of each row's entry in these inputs; empty if there is one entry per row."""
    prefix: SharedPrefix | None = None
    """The beginnings of the prompts, if rows share them: ``inputs`` are then the tokens alone."""

    @property
    def computed_tokens(self) -> int:
        """Number of tokens that the decoder is run over, with padding."""
        length = int(self.input_ids.shape[1])
        if self.prefix is None:
            return len(self.samples) * length
        beginnings = int(self.prefix.inputs["input_ids"].numel())
        return beginnings + len(self.samples) * (length - self.prefix.length)

    def entry(self, row: int) -> int:
        """Return the index of a row's entry in the ``deduplicated`` inputs."""
        return self.entries[row] if self.entries else row

    def model_inputs(self, without: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return the inputs of the model, with one entry per row.

        Args:
            without: Names to omit.
        """
        rows = list(self.entries)
        return {
            name: tensor[rows] if rows and name in self.deduplicated else tensor
            for name, tensor in self.inputs.items()
            if name not in without
        }

    def inputs_of(self, row: int) -> dict[str, Tensor]:
        """Return the sizes of a row's images, as the processor gives them: ``[images, …]``."""
        source, entry = self.inputs, row
        if self.prefix is not None:
            source, entry = dict(self.prefix.inputs), self.prefix.entries[row]
        rows = len(source["input_ids"])
        found = {name: source[name] for name in SIZES if name in source}
        sizes = {n: each.reshape(rows, -1, each.shape[-1])[entry] for n, each in found.items()}
        if TILES in source:
            sizes[TILES] = source[TILES][self.entry(row)]
        return sizes

    @property
    def nbytes(self) -> int:
        """Size of the inputs in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors: the inputs, and those of the beginnings under other names."""
        beginnings = {} if self.prefix is None else self.prefix.inputs
        return self.inputs | {_BEGINNING + name: each for name, each in beginnings.items()}

    def with_tensors(self, tensors: Mapping[str, Tensor], samples: tuple[Sample, ...]) -> Batch:
        """Return the batch with other samples, and other tensors under the names of ``tensors``."""
        inputs: dict[str, Tensor] = {}
        beginnings: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            kept = beginnings if name.startswith(_BEGINNING) else inputs
            kept[name.removeprefix(_BEGINNING)] = tensor
        prefix = self.prefix and SharedPrefix(beginnings, self.prefix.entries)
        return replace(self, samples=samples, inputs=inputs, prefix=prefix)

    @property
    def input_ids(self) -> Int[np.ndarray, "batch length"]:
        """Token ids, padded on the left."""
        return self.inputs["input_ids"].numpy()

    @property
    def attention_mask(self) -> Int[np.ndarray, "batch length"]:
        """1 where a token is real."""
        return self.inputs["attention_mask"].numpy()


@shown_once()
def prepare(
    samples: Sequence[Sample],
    vlm: VisionLanguageModel | Preprocessing,
    spec: ResolvedSpec | None = None,
) -> tuple[list[Batch], list[Failure]]:
    """Load the images, render the prompts, and make batches of the valid rows.

    Args:
        samples: The rows.
        vlm: The model, or the part of it that is needed here.
        spec: What to record (default, for a model: that of the specification); some positions need
            more of the prompt than its tokens.

    Returns:
        The batches (at most one, if all rows have images and these are not very large), and the
        failures of the other rows.
    """
    if isinstance(vlm, VisionLanguageModel):
        spec = spec or resolve_spec(CaptureSpec(), vlm)
        vlm = preprocessing_of(vlm, spec)
    if spec is None:
        raise InputError("spec: without a model, give what to record")
    failures: list[Failure] = []
    batches: list[Batch] = []
    for good in _read_all(samples, vlm, spec, failures):
        batches += _batches_of(good, vlm, spec, failures)
        good.clear()  # frees the images, of which only the tensors are needed
    return batches, failures


def bands_of(
    batch: Batch, vlm: VisionLanguageModel | Preprocessing, spec: ResolvedSpec
) -> list[int]:
    """Return the length band of each row of a batch, which must be one (``model/lengths.py``)."""
    if not vlm.lengths:
        return [0] * len(batch.samples)
    new = spec.decoded_tokens
    return [vlm.lengths.band(int(tokens), new) for tokens in batch.attention_mask.sum(axis=1)]


def _batches_of(
    good: Sequence[_Row], vlm: Preprocessing, spec: ResolvedSpec, failures: list[Failure]
) -> list[Batch]:
    """Make batches of valid rows; append rows with a too long prompt to the failures."""
    batches: list[Batch] = []
    for rows in _groups(good, vlm):
        batch = _encode(rows, vlm)
        if too_long := _too_long(batch, vlm):
            failures += too_long
            failed = {failure.id for failure in too_long}
            rows = [row for row in rows if row.sample.id not in failed]
            if not rows:
                continue
            batch = _encode(rows, vlm)
        batches += _split_by_band(batch, rows, vlm, spec)
    return batches


def _split_by_band(
    batch: Batch, rows: Sequence[_Row], vlm: Preprocessing, spec: ResolvedSpec
) -> list[Batch]:
    """Return a batch unchanged if its rows have one length band, else one batch per band."""
    groups: dict[tuple[int, int], list[_Row]] = {}
    for i, band in enumerate(bands_of(batch, vlm, spec)):
        groups.setdefault((band, i if band == ALONE else 0), []).append(rows[i])
    return [batch] if len(groups) == 1 else [_encode(group, vlm) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class _Row:
    """A valid row before batching."""

    sample: Sample
    chat_text: str
    after_question: int
    images: tuple[Image, ...]
    """In the order of the sample."""
    order: tuple[int, ...]
    """Indices of the images in the order in which the prompt shows them."""

    @property
    def shown(self) -> tuple[Image, ...]:
        """The images in the order in which the prompt shows them."""
        return tuple(self.images[index] for index in self.order)


def _read_all(
    samples: Sequence[Sample],
    vlm: Preprocessing,
    spec: ResolvedSpec,
    failures: list[Failure],
) -> Iterator[list[_Row]]:
    """Yield the valid rows: all at once, or in groups of ``PIXELS_AT_ONCE``; note the others."""
    good: list[_Row] = []
    opened: dict[str, Image] = {}
    control = control_tokens(vlm.processor.tokenizer)
    for sample in samples:
        try:
            good.append(_read(sample, vlm, spec, opened, control))
        except RowError as error:
            failures.append(failure_of(sample, error.stage, str(error)))
        if _pixels_of(good) >= PIXELS_AT_ONCE:
            yield good
            good, opened = [], {}
    if good:
        yield good


def _pixels_of(rows: Sequence[_Row]) -> int:
    """Return the number of decoded pixels that some rows keep in memory."""
    sizes = {id(image): image.width * image.height for row in rows for image in row.images}
    return sum(sizes.values())


def _read(
    sample: Sample,
    vlm: Preprocessing,
    spec: ResolvedSpec,
    opened: dict[str, Image],
    control: Sequence[str],
) -> _Row:
    """Render the prompt and load the images of one row.

    Args:
        sample: The row.
        vlm: The model.
        spec: What to record.
        opened: Path → image, for the rows before; extended.
        control: ``control_tokens`` of the tokenizer.

    Raises:
        RowError: The prompt or an image is invalid.
    """
    count = len(sample.images)
    if not count and not vlm.family.text_only:
        raise RowError("prompt", f"{vlm.family.title} takes no question without an image")
    text, after = render(vlm.processor, sample.question, count, control=control), 0
    order = image_order(sample.question, count)
    if "last_question_token" in spec.positions:
        after = count_after_question(vlm.processor, text, len(order))
    return _Row(sample, text, after, tuple(_open(image, opened) for image in sample.images), order)


def _open(image: Any, opened: dict[str, Image]) -> Image:
    """Return an image; a file used by several rows of a batch is read once."""
    if not isinstance(image, str | PathLike):
        return open_image(image)
    path = str(image)
    if path not in opened:
        opened[path] = open_image(image)
    return opened[path]


def _groups(rows: Sequence[_Row], vlm: Preprocessing) -> list[Sequence[_Row]]:
    """Return the rows in groups that may be batched.

    All questions of a batch show the same number of images. Not every processor accepts a mix of
    questions with and without one; and Mllama pads a batch to the most images of a question, which
    affects the tokens before the first image.
    """
    if vlm.one_at_a_time:
        return [[row] for row in rows]
    groups: dict[int, list[_Row]] = {}
    for row in rows:
        groups.setdefault(len(row.order), []).append(row)
    return list(groups.values())


def _encode(rows: Sequence[_Row], vlm: Preprocessing) -> Batch:
    """Make a batch of rows; questions about one image share the beginning of their prompts."""
    images, shown = [row.images for row in rows], [row.shown for row in rows]
    distinct = {id(image): image for own in images for image in own}
    hashes = {key: hash_image(image) for key, image in distinct.items()}
    dhashes = {key: difference_hash(image) for key, image in distinct.items()}
    thumbnails = {key: image_thumbnail(image) for key, image in distinct.items()}
    names = tuple("+".join(hashes[id(image)] for image in own) for own in shown)
    indices: dict[str, int] = {}
    entries = tuple(indices.setdefault(name, len(indices)) for name in names)
    deduplicated = vlm.family.encoder_inputs if len(indices) < len(rows) and any(images) else ()
    shared = None
    if vlm.shares_prefix and any(images) and distinct_enough(entries):
        shared = _encode_shared(rows, entries, vlm)
    if shared is None:
        inputs = _process(
            rows, vlm, DistinctImages(entries, deduplicated) if deduplicated else None
        )
    else:
        inputs = {"input_ids": shared.input_ids, "attention_mask": shared.attention_mask}
    return Batch(
        samples=tuple(row.sample for row in rows),
        inputs=inputs,
        chat_texts=tuple(row.chat_text for row in rows),
        image_hashes=tuple("+".join(hashes[id(image)] for image in own) for own in images),
        image_dhashes=tuple("+".join(dhashes[id(image)] for image in own) for own in images),
        image_thumbnails=tuple("+".join(thumbnails[id(image)] for image in own) for own in images),
        images=tuple(map(len, shown)),
        shown_hashes=names,
        shown_sizes=tuple(tuple((i.height, i.width) for i in own) for own in shown),
        after_question=tuple(row.after_question for row in rows),
        deduplicated=deduplicated,
        entries=entries if deduplicated else (),
        prefix=None if shared is None else shared.prefix,
    )


def _process(
    rows: Sequence[_Row], vlm: Preprocessing, each: DistinctImages | None = None
) -> dict[str, Tensor]:
    """Return the model's inputs for some rows, pinned if the model is on a GPU."""
    texts, shown = [row.chat_text for row in rows], [row.shown for row in rows]
    if vlm.image_by_image:
        inputs = with_image_rows(
            vlm.processor,
            vlm.dtype_of,
            lambda images: encode(vlm.processor, texts, shown, each, images),
        )
    else:
        inputs = encode(vlm.processor, texts, shown, each)
    inputs = vlm.cast(inputs)
    if vlm.pin_memory:  # in this thread, for which the GPU does not wait
        inputs = {name: pinned(tensor) for name, tensor in inputs.items()}
    return inputs


def _encode_shared(
    rows: Sequence[_Row], entries: Sequence[int], vlm: Preprocessing
) -> SharedTokens | None:
    """Return the tokens of rows that share beginnings; None if their prompts do not."""
    processor = vlm.processor
    if is_checked(processor) is False:
        return None
    firsts = [rows[entries.index(entry)] for entry in range(1 + max(entries))]
    shared = with_shared_prefix(
        _process(firsts, vlm),
        entries,
        [plain_tokens(processor, row.chat_text) for row in rows],
        vlm,
    )
    if shared is None or is_checked(processor):
        return shared
    return shared if check(processor, shared, _process(rows, vlm)) else None


def _too_long(batch: Batch, vlm: Preprocessing) -> list[Failure]:
    lengths, limit = batch.attention_mask.sum(axis=1), vlm.max_prompt_tokens
    images = (batch.input_ids == vlm.image_token_id).sum(axis=1)
    return [
        failure_of(
            sample,
            "prompt",
            f"the prompt has {length} tokens, the model takes {limit}; "
            + ("shorten the question" if 2 * seen < length else "give fewer or smaller images"),
        )
        for sample, length, seen in zip(batch.samples, lengths, images, strict=True)
        if length > limit
    ]
