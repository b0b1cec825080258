"""From a question and its image to the tensors that the model reads.

The prompt is one user turn through the processor's own chat template, the images first and then the
question verbatim; an image that the question names by a numbered placeholder, as ``<image 1>``,
stands in its place. Two details decide whether the positions are right:

- A chat template that writes the BOS token itself must not meet a tokenizer that adds another: the
  naive call doubles it and shifts every position by one. Templates without BOS must get theirs from
  the tokenizer, unless the processor puts it there. So: special tokens are added only where the
  rendered text does not start with BOS, and not if that doubles it.
- Batches are padded on the left, as generation needs it.

A chat template may write today's date (``strftime_now``). A processor therefore shows its template
one time for as long as it lives, the time at which it was loaded, or that of the run whose prompts
it makes again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from vlmscope import clock
from vlmscope.errors import ModelError, RowError, named_line
from vlmscope.locking import tokenizer_lock
from vlmscope.placeholders import image_mark, numbered_mark, split_at_images
from vlmscope.repeatable import reads_chance

if TYPE_CHECKING:
    from PIL.Image import Image


_TIME = "_vlmscope_prompt_time"
"""Attribute of a processor: the time that its template is shown."""
_MARK = "[the question]"
"""Stands in for a question where only the text around it is of interest."""
_MARKS = ("[the first text]", "[the second text]", "[the third text]")
"""Stand in for texts with images between them."""


def build_messages(question: str, images: int = 1) -> list[dict[str, Any]]:
    """Return the specification's conversation: one user turn, images first, the question verbatim.

    An image that a numbered placeholder of the question names stands there instead.

    Raises:
        RowError: A placeholder names an image that is not there.

    >>> build_messages("Is it lit?")[0]["content"]
    [{'type': 'image'}, {'type': 'text', 'text': 'Is it lit?'}]
    >>> build_messages("Is <image 1> lit?")[0]["content"][1:]
    [{'type': 'image'}, {'type': 'text', 'text': ' lit?'}]
    """
    return _messages(_arranged(question, images))


def image_order(question: str, images: int) -> tuple[int, ...]:
    """Return a row's images, by index, in the order in which the prompt shows them.

    Images that no placeholder names come first; one that several name is shown several times.

    Raises:
        RowError: A placeholder names an image that is not there.

    >>> image_order("What is it?", 2), image_order("<image 2>, <image 1> or <image 2>?", 3)
    ((0, 1), (2, 1, 0, 1))
    """
    return tuple(part for part in _arranged(question, images) if isinstance(part, int))


def _arranged(question: str, images: int) -> tuple[str | int, ...]:
    """Return a question in the order in which the prompt shows it: texts, and images by index."""
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
        ModelError: There is none, or it writes another prompt each time.
    """
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelError(
            "the checkpoint has no chat template; use the instruction-tuned checkpoint, "
            "or put a chat_template.jinja into its folder"
        )
    if name := reads_chance(str(template)):
        raise ModelError(
            f"the checkpoint's chat template asks for chance ({name}), so that no prompt could be "
            f"made again; remove {name} from its chat_template.jinja"
        )
    return str(template)


def reads_clock(processor: Any) -> bool:
    """Return whether the checkpoint's chat template asks for the time."""
    return clock.reads_clock(chat_template(processor))


def prompt_time(processor: Any) -> str | None:
    """Return the local time that the chat template is shown; None where it does not ask for it.

    Raises:
        ModelError: There is no chat template.
    """
    return _time(processor) if reads_clock(processor) else None


def set_prompt_time(processor: Any, time: str | None) -> None:
    """Show the chat template another time.

    Args:
        processor: The processor; changed.
        time: Local time, ISO 8601 without a zone; None leaves it as it is.
    """
    if time is not None:
        setattr(processor, _TIME, time)


def at_time(processor: Any, time: str | None) -> Any:
    """Return a shallow copy of a processor that shows its chat template another time."""
    copied = copy.copy(processor)
    set_prompt_time(copied, time)
    return copied


def template_settings(processor: Any) -> dict[str, Any]:
    """Return what ``apply_chat_template`` is to be called with besides the conversation.

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


def render(processor: Any, question: str, images: int = 1) -> str:
    """Return the chat text of a question about so many images: the specification's ``chat_text``.

    Raises:
        RowError: The question is no text or empty, or holds the text of a control token, the image
            placeholder for example: the tokenizer would read it as one, and the prompt would have
            another structure. Or it holds a placeholder that does not say which image it stands
            for, or that names none, or the template puts every image before the text. Or the
            template fails on it.
    """
    _check_text(question)
    parts = _arranged(question, images)
    texts = [part for part in parts if isinstance(part, str)]
    for token in _control_tokens(processor.tokenizer):
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
            f"the question contains {mark!r}, a placeholder of an image; the images stand before "
            "the question: remove it, or write 'the first image' where it tells images apart",
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
    """Return whether the chat template puts images between texts where the conversation has them.

    Many templates write all images first, wherever they stand. So one is shown a turn with an image
    between texts, and one with the images before them, and the difference must be the images.

    Raises:
        ModelError: There is no chat template.
    """
    one, two, three = _MARKS
    try:
        first = _around(_apply(processor, (0, 1, one, two, three)))
        between = _around(_apply(processor, (one, 0, two, 1, three)))
    except RowError:
        return False
    if not first or not between or first[-1] != between[-1]:
        return False
    images = [gap.strip() for gap in between[1:3]]
    return all(
        image and image in first[0] and image not in between[0] and gap != other
        for image, gap, other in zip(images, between[1:3], first[1:3], strict=True)
    )


def _around(text: str) -> list[str]:
    """Return what stands before, between and behind the marks; nothing where one is not there."""
    found = re.split("|".join(map(re.escape, _MARKS)), text)
    in_order = re.findall("|".join(map(re.escape, _MARKS)), text) == list(_MARKS)
    return found if in_order else []


def _apply(processor: Any, parts: Iterable[str | int]) -> str:
    settings = template_settings(processor)
    try:
        return str(processor.apply_chat_template(_messages(parts), **settings))
    except Exception as error:  # a template is a program of the checkpoint's, in a sandbox
        found = named_line(error)
        raise RowError(
            "prompt",
            f"the checkpoint's chat template fails ({found}); mend its chat_template.jinja",
        ) from error


def count_after_question(processor: Any, chat_text: str, images: int = 1) -> int:
    """Return how many tokens of a rendered prompt begin behind the question.

    What stands behind it is the template's, the same for every question; a search for the question
    could find it in there ("is" is a part of "assistant"). Counted from the end, because the
    processor may put many image tokens before the question. Where a question ends in an image, its
    last token is the last one that stands for the image.

    Args:
        processor: The processor.
        chat_text: The prompt, as ``render`` made it.
        images: How many images it shows.

    Raises:
        RowError: The template's end depends on the question, so the question's end is not known.
    """
    behind = _apply(processor, (*range(images), _MARK)).rpartition(_MARK)[2]
    if not behind or not chat_text.endswith(behind):
        raise RowError(
            "prompt",
            "last_question_token: the chat template does not end in the same way for every "
            "question; leave that position out",
        )
    # The tokenizer itself, not the call around it, which changes the tokenizer's padding.
    with tokenizer_lock():
        encoding = processor.tokenizer.backend_tokenizer.encode(chat_text, add_special_tokens=False)
    return sum(start >= len(chat_text) - len(behind) for start, _ in encoding.offsets)


def _control_tokens(tokenizer: Any) -> list[str]:
    """Return the texts that the tokenizer takes for control tokens wherever they stand."""
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if token.special]


@dataclass(frozen=True, slots=True)
class EachOnce:
    """Which rows of a batch show the same images, so that these are prepared once."""

    entries: Sequence[int]
    """For each row which of the different images it shows, numbered in the order of the rows."""
    names: Sequence[str]
    """The processor's outputs that depend on the images alone: they have one entry for each."""


def encode(
    processor: Any,
    chat_texts: Sequence[str],
    images: Sequence[Sequence[Image]],
    each: EachOnce | None = None,
) -> dict[str, Any]:
    """Return the model's inputs for a batch, on the CPU, padded on the left.

    Args:
        processor: The checkpoint's processor.
        chat_texts: Rendered prompts.
        images: The RGB images of each. Either every prompt has some or none has: most processors
            take a batch of both, but not all.
        each: Which rows show the same images, if they are to be prepared once.

    Returns:
        Name → tensor, whatever this processor makes: always ``input_ids`` and ``attention_mask``
        ``[batch, length]``; for Mllama ``pixel_values [batch, 1, 4, 3, tile, tile]``,
        ``aspect_ratio_ids [batch, 1]``, ``aspect_ratio_mask [batch, 1, 4]`` and
        ``cross_attention_mask [batch, length, 1, 4]``.
    """
    processor = in_turn(processor)
    if each is not None:
        processor.image_processor = _Preparing(processor.image_processor, each)
    bos = processor.tokenizer.bos_token
    has_bos = bool(bos) and all(text.startswith(bos) for text in chat_texts)
    inputs = _process(processor, chat_texts, images, add_special_tokens=not has_bos)
    if bos and not has_bos and count_bos(processor, inputs) > 1:
        inputs = _process(processor, chat_texts, images, add_special_tokens=False)
    inputs.pop("labels", None)
    return inputs


def in_turn(processor: Any) -> Any:
    """Return a shallow copy of a processor whose tokenizer is called by one thread at a time.

    A tokenizer keeps whether and how it pads from one call to the next, and a call sets that before
    it encodes: a call in another thread that comes between would decide how this one pads.
    """
    copied = copy.copy(processor)
    copied.tokenizer = _InTurn(processor.tokenizer)
    return copied


def count_bos(processor: Any, inputs: Mapping[str, Any]) -> int:
    """Return how many BOS tokens the first prompt of a batch begins with."""
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


class _InTurn:
    """A tokenizer every call of which, and of whose methods, waits for those of other threads."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # not there yet: a copy of this is being made
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


class _Preparing:
    """An image processor that is asked for every row and works once for rows that show the same."""

    def __init__(self, own: Any, each: EachOnce) -> None:
        self._own = own
        self._each = each

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # not there yet: a copy of this is being made
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
