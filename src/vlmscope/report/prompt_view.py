"""Tokens as text, and the tokens of one sample's prompt; needs the processor, no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmscope.dataset import hash_image, load_image
from vlmscope.errors import RowError, one_line
from vlmscope.positions import ANSWER_POSITIONS
from vlmscope.prompt import (
    at_time,
    chat_template,
    count_after_question,
    encode,
    image_order,
    render,
)
from vlmscope.report.document import PromptToken, TokenView
from vlmscope.schema import Capture, Sample
from vlmscope.selection import boundaries, locate
from vlmscope.store import ModelRecord, boundary_name

if TYPE_CHECKING:
    from PIL.Image import Image


TokenText = Callable[[int], str]
"""Token id → decoded text."""

_REMEDY = "give the model of the run with --model"


def find_processor(record: ModelRecord, model: str | None) -> tuple[Any | None, str]:
    """Return the run's processor, or None and why it is not available. Nothing is downloaded.

    Args:
        record: The run's model.
        model: Its current path, if it differs from the record.
    """
    name = model or record.name
    if Path(name).is_absolute() and not Path(name).is_dir():
        return None, f"{name}: no such folder; {_REMEDY}"
    from huggingface_hub import snapshot_download

    from vlmscope.model.fingerprint import hash_processor
    from vlmscope.model.loading.processors import load_processor

    try:
        local = Path(name).is_dir()
        folder = name if local else snapshot_download(
            name, revision=record.revision, local_files_only=True
        )  # fmt: skip
        processor = load_processor(folder)
    except Exception as error:  # noqa: BLE001 - the libraries raise anything on damaged files
        why = one_line(error)
        if not Path(name).is_dir():  # the library's message is about the network
            why = "no such folder, and not among the downloaded ones"
        return None, f"{name}: no processor can be loaded ({why}); {_REMEDY}"
    complete = hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")
    if not complete or hash_processor(processor) != record.processor_hash:
        return None, f"{name}: the processor is not the one of the run; {_REMEDY}"
    return processor, ""


def token_text(processor: Any | None) -> TokenText:
    """Return a function that decodes a token id; without a processor it returns the id."""
    if processor is None:
        return "#{}".format
    return cache(lambda token: str(processor.tokenizer.decode([token])))


def token_view(
    processor: Any, record: ModelRecord, capture: Capture, sample: Sample | None
) -> TokenView:
    """Return the expanded prompt of a stored row, rebuilt as in the capture.

    Args:
        processor: The processor of the run.
        record: The run's model.
        capture: The stored row: the prompt is compared with its length and boundaries.
        sample: The same row of the table, for its images; None if the table does not have it.

    Raises:
        RowError: An image is not available, or the prompt differs from the captured one.
    """
    from vlmscope.model.fingerprint import hash_json

    if hash_json(chat_template(processor)) != record.chat_template_hash:
        raise RowError("prompt", f"the chat template is not the one of the run; {_REMEDY}")
    question = capture.sample.question
    images = _images(capture, sample)
    processor = at_time(processor, record.prompt_time)
    text = render(processor, question, len(images))
    shown = [images[index] for index in image_order(question, len(images))]
    inputs = encode(processor, [text], [shown])
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    expected = {n: i for n, i in capture.boundaries.items() if n not in ANSWER_POSITIONS}
    has_question = "last_question_token" in expected
    behind = (count_after_question(processor, text, len(shown)),) if has_question else ()
    try:
        found = boundaries(
            locate(ids, mask, _image_token(processor, record), tuple(expected), behind), mask, 0
        )
    except (AttributeError, ValueError):  # no image token
        found = {}
    if found != expected or ids.shape[1] != capture.num_prompt_tokens:
        raise RowError("prompt", "the rebuilt prompt differs from the captured tokens")
    tokens = _grouped(ids[0].tolist(), expected, token_text(processor))
    return TokenView(capture.sample.id, question, tuple(tokens))


def _images(capture: Capture, sample: Sample | None) -> list[Image]:
    """Return the images of a row, if they are those that were captured."""
    if not capture.image_sha256:  # a question without an image
        return []
    if sample is None:
        raise RowError("image", f"image {capture.sample.image_id} is not available")
    images = [load_image(image) for image in sample.images]
    if "+".join(map(hash_image, images)) != capture.image_sha256:
        raise RowError("image", f"image {sample.image_id} has changed since the run was made")
    return images


def _image_token(processor: Any, record: ModelRecord) -> int:
    """Return the id of the model's image token; Gemma's processor has another of that name."""
    return int(record.image_token_id or processor.image_token_id)


def _grouped(
    ids: Sequence[int], positions: Mapping[str, int], text: TokenText
) -> Iterator[PromptToken]:
    """Yield the tokens, with equal successive ones grouped; a boundary is never grouped."""
    marks: dict[int, tuple[str, ...]] = {}
    for name, position in positions.items():
        marks[position] = (*marks.get(position, ()), boundary_name(name))
    for (token, marked), group in groupby(
        enumerate(ids), key=lambda pair: (pair[1], marks.get(pair[0], ()))
    ):
        members = list(group)
        yield PromptToken(members[0][0], len(members), token, text(token), marked)
