"""From a question and its images to the input tensors of the model.

The prompt is one user turn in the processor's own chat template, first the images and then the
question verbatim; an image that the question names by a numbered placeholder, such as
``<image 1>``, is put at the placeholder instead. Two details are important for correct positions:

- If a chat template writes the BOS token and the tokenizer adds another, every position is shifted
  by one, as in the naive call. Templates without BOS need the tokenizer's, unless the processor
  adds it. So special tokens are added only if the rendered text does not start with BOS, and not if
  that doubles it.
- Batches are padded on the left, which generation requires.

A chat template may write today's date (``strftime_now``). A processor therefore passes a constant
time to its template: the time when it was loaded, or that of the run whose prompts it reproduces.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from vlmscope import clock
from vlmscope.errors import ModelError, RowError, named_line
from vlmscope.locking import tokenizer_lock
from vlmscope.placeholders import image_mark, numbered_mark, split_at_images
from vlmscope.repeatable import uses_randomness

if TYPE_CHECKING:
    from PIL.Image import Image


_TIME = "_vlmscope_prompt_time"
"""Attribute of a processor: the time that its template is given."""
_MARK = "[the question]"
"""Example question, to find the text around a question."""
_MARKS = ("[the first text]", "[the second text]", "[the third text]")
"""Example texts, with images between them."""


def build_messages(question: str, images: int = 1) -> list[dict[str, Any]]:
    """Return the specification's conversation: one user turn, images first, the question verbatim.

    An image that the question names by a numbered placeholder is put there instead.

    Raises:
        RowError: A placeholder names an image that the row does not have.

    >>> build_messages("Is it lit?")[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'Is it lit?'}]
    >>> build_messages("Is <image 1> lit?")[0]["content"][1:]
    [{'type': 'image'}, {'type': 'text', 'text': ' lit?'}]
    """
    return _messages(_ordered_parts(question, images))


def image_order(question: str, images: int) -> tuple[int, ...]:
    """Return the indices of a row's images in the order in which the prompt shows them.

    Images without a placeholder come first; an image with several is shown several times.

    Raises:
        RowError: A placeholder names an image that the row does not have.

    >>> image_order("What is it?", 2), image_order("<image 2>, <image 1> or <image 2>?", 3)
    ((0, 1), (2, 1, 0, 1))
    """
    return tuple(part for part in _ordered_parts(question, images) if isinstance(part, int))


def _ordered_parts(question: str, images: int) -> tuple[str | int, ...]:
    """Return texts, and images as indices, in the order in which the prompt shows them."""
    parts = split_at_images(question)
    numbers = {part for part in parts if isinstance(part, int)}
    if not numbers <= set(range(1, images + 1)):
        wrong = min(numbers - set(range(1, images + 1)))
        have = {0: "no image", 1: "1 image"}.get(images, f"{images} images")
        raise RowError(
            "prompt",
            f"the question names image {wrong} by a placeholder, and the row has {have}; images "
            "are counted from 1: give the row that image, or correct the placeholder",
        )
    first = [index for index in range(images) if index + 1 not in numbers]
    return (*first, *(part - 1 if isinstance(part, int) else part for part in parts))


def _messages(parts: Iterable[str | int]) -> list[dict[str, Any]]:
    """Return one user turn of texts and images."""
    content = [
        {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def chat_template(processor: Any) -> str:
    """Return the checkpoint's chat template, from the processor or else its tokenizer.

    Raises:
        ModelError: There is none, or it is random.
    """
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelError(
            "the checkpoint has no chat template; use the instruction-tuned checkpoint, "
            "or put a chat_template.jinja into its folder"
        )
    if name := uses_randomness(str(template)):
        raise ModelError(
            f"the checkpoint's chat template is random ({name}), so prompts would not be "
            f"reproducible; remove {name} from its chat_template.jinja"
        )
    return str(template)


def reads_clock(processor: Any) -> bool:
    """Return whether the checkpoint's chat template reads the time."""
    return clock.reads_clock(chat_template(processor))


def prompt_time(processor: Any) -> str | None:
    """Return the local time that the chat template is given; None if it does not read it.

    Raises:
        ModelError: There is no chat template.
    """
    return _time(processor) if reads_clock(processor) else None


def set_prompt_time(processor: Any, time: str | None) -> None:
    """Set the time that the chat template is given.

    Args:
        processor: The processor; changed in place.
        time: Local time, ISO 8601 without a zone; None for no change.
    """
    if time is not None:
        setattr(processor, _TIME, time)


def at_time(processor: Any, time: str | None) -> Any:
    """Return a shallow copy of a processor with another time for its chat template."""
    copied = copy.copy(processor)
    set_prompt_time(copied, time)
    return copied


def template_settings(processor: Any) -> dict[str, Any]:
    """Return the arguments of ``apply_chat_template`` besides the conversation.

    Raises:
        ModelError: There is no chat template.
    """
    template = chat_template(processor)
    variables: dict[str, Any] = {}
    if clock.reads_clock(template):
        template, variables = clock.at_time(template, _time(processor))
    return {
        "chat_template": template, "add_generation_prompt": True, "tokenize": False, **variables
    }  # fmt: skip


def _time(processor: Any) -> str:
    if getattr(processor, _TIME, None) is None:
        set_prompt_time(processor, clock.now())
    return str(getattr(processor, _TIME))


def render(
    processor: Any, question: str, images: int = 1, *, control: Sequence[str] | None = None
) -> str:
    """Return the chat text of a question with some images: the specification's ``chat_text``.

    Args:
        processor: The checkpoint's processor.
        question: The question.
        images: Number of its images.
        control: ``control_tokens`` of the tokenizer, if they are known.

    Raises:
        RowError: The question is no text or empty; it contains the text of a control token, for
            example the image placeholder, which the tokenizer would read as such, so that the
            prompt would have another structure; it contains a placeholder without a number, or of a
            missing image, or the template puts every image before the text; or the template fails
            on it.
    """
    _check_text(question)
    parts = _ordered_parts(question, images)
    texts = [part for part in parts if isinstance(part, str)]
    for token in control_tokens(processor.tokenizer) if control is None else control:
        if any(token in text for text in texts):
            raise RowError(
                "prompt",
                f"the question contains {token!r}, which the tokenizer reads as a control token; "
                "remove it",
            )
    mark = image_mark(question)
    if not mark and (numbered := numbered_mark(question)) and not takes_images_anywhere(processor):
        mark = numbered
    if mark:
        raise RowError(
            "prompt",
            f"the question contains {mark!r}, a placeholder of an image; the images are put before "
            "the question: remove it, or write 'the first image' to distinguish images",
        )
    return _apply(processor, parts)


def _check_text(question: Any) -> None:
    """Refuse a question that no tokenizer can read.

    Raises:
        RowError: It is no text, empty, or holds half of a surrogate pair.
    """
    if not isinstance(question, str):
        raise RowError(
            "prompt", f"the question is {type(question).__name__}, expected text; write one"
        )
    if not question.strip():
        raise RowError("prompt", "the question is empty; write one")
    if odd := re.search(r"[\ud800-\udfff]", question):
        raise RowError(
            "prompt",
            f"the question holds half of a surrogate pair, {odd[0]!r} at position {odd.start()}, "
            "which is no character; remove it",
        )


def takes_images_anywhere(processor: Any) -> bool:
    """Return whether the chat template can put images between texts.

    Many templates write all images first, wherever they are in the conversation. So one turn is
    rendered with an image between texts, and one with the images before them, and the difference
    must be the images.

    Raises:
        ModelError: There is no chat template.
    """
    one, two, three = _MARKS
    try:
        first = _split_at_marks(_apply(processor, (0, 1, one, two, three)))
        between = _split_at_marks(_apply(processor, (one, 0, two, 1, three)))
    except RowError:
        return False
    if not first or not between or first[-1] != between[-1]:
        return False
    images = [gap.strip() for gap in between[1:3]]
    return all(
        image and image in first[0] and image not in between[0] and gap != other
        for image, gap, other in zip(images, between[1:3], first[1:3], strict=True)
    )


def _split_at_marks(text: str) -> list[str]:
    """Return the texts before, between and after the marks; empty if one is missing."""
    found = re.split("|".join(map(re.escape, _MARKS)), text)
    in_order = re.findall("|".join(map(re.escape, _MARKS)), text) == list(_MARKS)
    return found if in_order else []


def _apply(processor: Any, parts: Iterable[str | int]) -> str:
    settings = template_settings(processor)
    try:
        return str(processor.apply_chat_template(_messages(parts), **settings))
    except Exception as error:  # a template is a program of the checkpoint, in a sandbox
        found = named_line(error)
        raise RowError(
            "prompt",
            f"the checkpoint's chat template fails ({found}); correct its chat_template.jinja",
        ) from error


def count_after_question(processor: Any, chat_text: str, images: int = 1) -> int:
    """Return how many tokens of a rendered prompt begin after the question.

    The text after it is part of the template, the same for every question; searching for the
    question could find it there ("is" is a part of "assistant"). Tokens are counted from the end,
    because the processor may put many image tokens before the question. If a question ends with an
    image, its last token is the last image token.

    Args:
        processor: The processor.
        chat_text: The prompt, from ``render``.
        images: Number of images that it shows.

    Raises:
        RowError: The end of the template depends on the question, so the question's end is unknown.
    """
    after = _apply(processor, (*range(images), _MARK)).rpartition(_MARK)[2]
    if not after or not chat_text.endswith(after):
        raise RowError(
            "prompt",
            "last_question_token: the chat template does not end in the same way for every "
            "question; omit that position",
        )
    offsets = _encoding(processor, chat_text).offsets
    return sum(start >= len(chat_text) - len(after) for start, _ in offsets)


def plain_tokens(processor: Any, chat_text: str) -> list[int]:
    """Return the tokens of a rendered prompt in which no image is expanded."""
    return list(_encoding(processor, chat_text).ids)


def _encoding(processor: Any, chat_text: str) -> Any:
    # The backend, not the tokenizer's call, which changes the tokenizer's padding.
    with tokenizer_lock():
        return processor.tokenizer.backend_tokenizer.encode(chat_text, add_special_tokens=False)


def control_tokens(tokenizer: Any) -> list[str]:
    """Return the texts that the tokenizer reads as control tokens, wherever they occur.

    Gemma has 6,000 added tokens, which take 10 ms: once for a batch, not for each question.
    """
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if token.special]


@dataclass(frozen=True, slots=True)
class DistinctImages:
    """Which rows of a batch show the same images, which are then prepared once."""

    entries: Sequence[int]
    """For each row the index of its images, numbered in the order of first use."""
    names: Sequence[str]
    """The processor's outputs that depend on the images alone, with one entry per index."""


def encode(
    processor: Any,
    chat_texts: Sequence[str],
    images: Sequence[Sequence[Image]],
    each: DistinctImages | None = None,
    with_images: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """Return the model's inputs for a batch, on the CPU, padded on the left.

    Args:
        processor: The checkpoint's processor.
        chat_texts: Rendered prompts.
        images: The RGB images of each. Either every prompt has some or none has any: most
            processors accept a mixed batch, but not all.
        each: Which rows show the same images, if those are to be prepared once.
        with_images: Makes of the image processor the one that is called, with the same outputs.

    Returns:
        Name → tensor, depending on the processor: always ``input_ids`` and ``attention_mask``
        ``[batch, length]``; for Mllama ``pixel_values [batch, 1, 4, 3, tile, tile]``,
        ``aspect_ratio_ids [batch, 1]``, ``aspect_ratio_mask [batch, 1, 4]`` and
        ``cross_attention_mask [batch, length, 1, 4]``.
    """
    processor = with_tokenizer_lock(processor)
    if with_images is not None:
        processor.image_processor = with_images(processor.image_processor)
    if each is not None:
        processor.image_processor = _DistinctImages(processor.image_processor, each)
    bos = processor.tokenizer.bos_token
    has_bos = bool(bos) and all(text.startswith(bos) for text in chat_texts)
    inputs = _process(processor, chat_texts, images, add_special_tokens=not has_bos)
    if bos and not has_bos and count_bos(processor, inputs) > 1:
        inputs = _process(processor, chat_texts, images, add_special_tokens=False)
    inputs.pop("labels", None)
    return inputs


def with_tokenizer_lock(processor: Any) -> Any:
    """Return a shallow copy of a processor whose tokenizer is called by one thread at a time.

    A tokenizer keeps its padding settings from one call to the next, and a call sets them before it
    encodes: a call in another thread in between would change the padding of this one.
    """
    copied = copy.copy(processor)
    copied.tokenizer = _LockedTokenizer(processor.tokenizer)
    return copied


def count_bos(processor: Any, inputs: Mapping[str, Any]) -> int:
    """Return the number of BOS tokens at the beginning of a batch's first prompt."""
    ids = inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()
    return len(list(takewhile(lambda token: token == processor.tokenizer.bos_token_id, ids)))


def _process(
    processor: Any,
    chat_texts: Sequence[str],
    images: Sequence[Sequence[Image]],
    *,
    add_special_tokens: bool,
) -> dict[str, Any]:
    return dict(
        processor(
            text=list(chat_texts),
            images=[list(some) for some in images] if any(images) else None,
            add_special_tokens=add_special_tokens,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
    )


class _LockedTokenizer:
    """A tokenizer whose calls and methods are run by one thread at a time."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # not set yet: this object is being copied
            raise AttributeError(name)
        value = getattr(self._own, name)
        if not callable(value):
            return value

        @wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            with tokenizer_lock():
                return value(*args, **kwargs)

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with tokenizer_lock():
            return self._own(*args, **kwargs)

    def __len__(self) -> int:
        return len(self._own)


class _DistinctImages:
    """An image processor that is called for all rows, and processes each distinct entry once."""

    def __init__(self, own: Any, each: DistinctImages) -> None:
        self._own = own
        self._each = each

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # not set yet: this object is being copied
            raise AttributeError(name)
        return getattr(self._own, name)

    def __call__(self, images: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        entries = list(self._each.entries)
        first = [entries.index(entry) for entry in range(1 + max(entries))]
        made = self._own([images[row] for row in first], *args, **kwargs)
        for name, values in made.items():
            if name not in self._each.names:
                every = isinstance(values, list)
                made[name] = [values[i] for i in entries] if every else values[entries]
        return made
