"""Continuous batching: rows are admitted as slots become free, and leave when their answer ends.

In static batching, most steps of a batch are wasted on rows that have ended, until the longest
answer is complete. Here every step is for rows whose answers are not complete, and the next
questions are prefilled as soon as there are free slots.

The host does not wait for the step that it has just launched: it checks the one before. So a row
takes part in one step too many, whose token is discarded.

With P(True), a row whose greedy answer has ended keeps its slot until the model was asked about the
answer (``asking``).

A step changes its tensors in place, so one that Ctrl-C interrupted cannot be made again: if the
session is used further, these rows are run again from their prompts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlmscope.engine.answers import (
    CHOSEN,
    COUNT,
    LOGPROBS,
    STATISTICS,
    end_tokens,
    finished,
    finished_sample,
    last_states,
    of_answers,
    states_of_answers,
    with_samples,
)
from vlmscope.engine.decoding.admission import (
    begin,
    copy_layers,
    dimensions,
    set_cross_attention_mask,
)
from vlmscope.engine.decoding.asking import Held, OwnPrompt, Reply, SlotAsker
from vlmscope.engine.decoding.memory import HOST_BYTES, Layers, rows_in_memory, widths_of_answers
from vlmscope.engine.decoding.slots import Slots, make_slots, rounded_up
from vlmscope.engine.decoding.step import Stepper
from vlmscope.engine.device import Fetch
from vlmscope.engine.hooks import RecordedTensors
from vlmscope.engine.p_true import with_p_true
from vlmscope.engine.prefill import DeviceBatch, Prefilled
from vlmscope.engine.similarity import PromptStates, prompt_states
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.device_copies import to_device
from vlmscope.sampling import SampledAnswer
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.signals import IMAGE_TOKENS, P_TRUE

LAG = 1
"""Number of launched steps on a GPU that may follow the one whose flags are checked."""

TOO_LONG = 4
"""Empty slots are reallocated if they are this many times longer than a prompt needs."""


class InterruptedStep(Exception):  # noqa: N818 - what happened, not what is wrong
    """Ctrl-C came while the slots were changed: some tensors are those of a later token."""


@dataclass(eq=False, slots=True)
class _Question:
    """A question whose answers are being decoded."""

    prefilled: Prefilled
    prompt: PromptStates
    """What the tokens of its greedy answer are compared with, until that is complete."""
    greedy: Capture | Failure | None = None
    """Its capture with the greedy answer, once that was received."""
    samples: dict[int, SampledAnswer] = field(default_factory=dict)
    """The sampled answers that were received, by their number from 1."""
    own: OwnPrompt | None = None
    """Its prompt, while the model is yet to be asked about its greedy answer from its slot."""
    held: Held | None = None
    """The same with the question about the answer, once that was received."""

    def complete(self, answers: int) -> Capture | Failure | None:
        """Return the capture, if so many answers were received and nothing is to be asked."""
        if self.greedy is None or self.own is not None or len(self.samples) < answers - 1:
            return None
        return with_samples(self.greedy, [self.samples[number] for number in range(1, answers)])

    def answer(self, reply: Reply | None) -> None:
        """Store what the model replied about the answer; without a reply it is asked later."""
        if reply is not None and isinstance(self.greedy, Capture):
            fetch, index = reply
            self.greedy = with_p_true(self.greedy, fetch[P_TRUE][index])
        self.own = self.held = None


@dataclass(eq=False, slots=True)
class _Row:
    """An answer that is being decoded."""

    question: _Question
    number: int
    """0 for the greedy answer, then the samples."""
    slot: int
    ended: bool = False
    received: bool = False
    replied: bool = False
    """Whether what the model replied about it was read."""


class Decoding:
    """The rows that are being answered.

    Args:
        vlm: The model.
        spec: What to record.
        rows: Maximum number of questions that are answered at once; fewer if memory is short.
        asker: Asks the model about its answers, if that is recorded.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        spec: ResolvedSpec,
        rows: int,
        asker: SlotAsker | None = None,
    ) -> None:
        self.rows = rows
        self._asker = asker
        self._replying: deque[tuple[list[_Row], list[Reply | None]]] = deque()
        self._vlm = vlm
        self._spec = spec
        self._limit = spec.decoded_tokens
        self._answers = spec.signals.sampling.answers
        self._slots: Slots | None = None
        self._stepper: Stepper | None = None
        self._rows: list[_Row] = []
        self._flags: deque[tuple[Fetch, list[_Row]]] = deque()
        self._arriving: deque[tuple[list[_Row], Fetch]] = deque()
        self._masked = False
        self._lag = LAG if vlm.cuda_devices else 0
        self._band = 0
        self._changing = False

    @property
    def capacity(self) -> int:
        """How many questions are answered at once, as far as is known."""
        if self._slots is None:
            return self.rows
        return min(self.rows, self._slots.rows // self._answers)

    @property
    def samples(self) -> list[Sample]:
        """The questions whose answers are not complete, or were not received yet."""
        leaving = [row for rows, _ in self._arriving for row in rows if not row.received]
        staying = [row for row in self._rows if not row.ended]
        asked = [row for rows, _ in self._replying for row in rows] + self._rows
        asked = [row for row in asked if row.question.own is not None]
        questions = dict.fromkeys(row.question for row in (*leaving, *staying, *asked))
        return [question.prefilled.sample for question in questions]

    def has_room(self, rows: int, band: int = 0) -> bool:
        """Return whether so many more questions of a length band can be admitted, if known."""
        if self._slots is None or not self._rows:
            return True
        needed = rows * self._answers
        return band == self._band and len(self._rows) + needed <= self._slots.rows

    def length_for(self, tokens: int) -> int:
        """Return the slot length that would be used for a prompt of so many tokens."""
        before = 0 if self._slots is None else self._slots.length
        needed = rounded_up(tokens + self._limit + 1)
        far_too_long = not self._rows and before > TOO_LONG * needed
        return needed if far_too_long else max(before, needed)

    def fits(self, layers: Layers, tokens: int, recorded: RecordedTensors) -> bool:
        """Return whether the current slots have the right shape for a batch of such prompts."""
        slots = self._slots
        return slots is not None and (
            self.length_for(tokens) == slots.length
            and dimensions(recorded) <= len(slots.positions)
            and len(slots.keys) == len(layers)
            and all(slots.keys[i].shape[2] >= layers[i][0].shape[2] for i in slots.fixed)
        )

    def admit(
        self,
        device_batch: DeviceBatch,
        prefilled: Sequence[Prefilled],
        layers: Layers,
        band: int = 0,
    ) -> None:
        """Admit a batch that was just prefilled.

        Args:
            device_batch: The batch on the device.
            prefilled: Its rows.
            layers: Its keys and values, which are copied for every answer of a question.
            band: Length band of its rows; all rows of a step are of one band.

        Raises:
            torch.OutOfMemoryError: There is not enough memory; nothing was changed then.
        """
        recorded, mask = device_batch.recorder.tensors(), device_batch.inputs["attention_mask"]
        questions, tokens = mask.shape
        rows = questions * self._answers
        prompts = prompt_states(
            self._spec.signals, recorded.last_states, recorded.image_tokens, questions
        )
        room = 0 if self._slots is None else self._slots.rows - len(self._rows)
        if not self.fits(layers, tokens, recorded) or rows > room:
            if self._rows:
                raise RuntimeError("a batch was admitted without enough free slots")
            self._make_slots(device_batch, layers, rows, tokens)
        slots = self._slots
        if slots is None:
            raise RuntimeError("there are no slots")
        rows_of = slice(slots.active, slots.active + rows)
        copy_layers(slots, rows_of, layers)
        if slots.draws is not None:
            ids = [row.sample.id for row in prefilled]
            slots.draws.begin(rows_of, ids, self._spec.signals.sampling)
        begin(slots, rows_of, recorded, mask)
        masked = set_cross_attention_mask(slots, rows_of, device_batch, layers, self._vlm)
        self._masked = masked or (self._masked and bool(self._rows))
        slots.active += rows
        self._band = band
        slot_numbers = iter(range(rows_of.start, rows_of.stop))
        kept = prompts or [PromptStates()] * questions
        own = None if self._asker is None else self._asker.prompts(device_batch.batch)
        for i, question in enumerate(map(_Question, prefilled, kept)):
            question.own = None if own is None else own[i]
            for number in range(self._answers):
                self._rows.append(_Row(question, number, next(slot_numbers)))

    def step(self, wanted: int = 0) -> Iterator[Capture | Failure]:
        """Decode one token for every row; yield the rows whose answers were received.

        Yielded rows are complete, even if a later row raises.

        Args:
            wanted: Number of questions for which there is to be room.

        Raises:
            InterruptedStep: An earlier step was interrupted; its rows are to be run again.
        """
        if self._changing:
            raise InterruptedStep
        arrived = len(self._arriving)
        with self._all_or_nothing():
            if self._decodes and self._slots is not None and self._stepper is not None:
                self._stepper.step(masked=self._masked)
                flags = Fetch({"ended": self._slots.ended[: self._slots.active]})
                self._flags.append((flags, list(self._rows)))
            ahead = self._lag if self._decodes else 0
            while len(self._flags) > ahead:
                self._release_ended(*self._flags.popleft())
        # On a CPU there is no transfer: answers that have just ended are received.
        yield from self._receive(arrived if ahead else len(self._arriving))
        if self._asker is not None:
            yield from self._ask(self._asker, wanted)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Change the slots; after an interrupt within the context they are not used again."""
        self._changing = True
        yield
        self._changing = False

    @property
    def _decodes(self) -> bool:
        """Whether the answer of some row has not ended."""
        return any(not row.ended for row in self._rows)

    def forget(self) -> bool:
        """Free the slots, which must be empty; return whether there were any."""
        had = self._slots is not None
        self._slots = self._stepper = None
        self._flags.clear()
        return had

    def drain(self) -> Iterator[Capture | Failure]:
        """Decode all rows to the end; yield them as their answers are received."""
        while self._rows:
            yield from self.step()
        self._flags.clear()
        yield from self._receive(len(self._arriving))
        yield from self._receive_replies(len(self._replying))

    def _ask(self, asker: SlotAsker, wanted: int) -> Iterator[Capture | Failure]:
        """Ask about answers if it is time to; yield rows about which the model has replied.

        Args:
            asker: Asks about them.
            wanted: As in ``step``.
        """
        launched = len(self._replying)
        with self._all_or_nothing():
            self._release([row for row in self._rows if row.ended and row.question.own is None])
        while rows := self._rows_to_ask(asker, wanted):
            held = {row.slot: row.question.held for row in rows if row.question.held is not None}
            if self._slots is None:
                raise RuntimeError("there are no slots")
            self._replying.append((rows, asker.ask(self._slots, held)))
            with self._all_or_nothing():
                self._release(rows)  # only now: after Ctrl-C they are asked about again
        # As with answers: a reply is read a step after it was launched.
        late = bool(self._lag) and self._decodes
        yield from self._receive_replies(launched if late else len(self._replying))

    def _rows_to_ask(self, asker: SlotAsker, wanted: int) -> list[_Row]:
        """Return rows to ask about now: if there are several, no others, or their room is wanted.

        The arguments are those of ``_ask``.
        """
        ended = [row for row in self._rows if row.ended and row.question.held is not None]
        if not ended or self._slots is None:
            return []
        at_once = max(1, asker.at_once)
        short = self._slots.active + wanted * self._answers - self._slots.rows
        if len(ended) < at_once and self._decodes and not 0 < short <= len(ended):
            return []
        return ended[:at_once]

    def _receive_replies(self, groups: int) -> Iterator[Capture | Failure]:
        """Yield the questions that are complete with the oldest replies about answers."""
        for _ in range(groups):
            rows, replies = self._replying[0]
            for row, reply in zip(rows, replies, strict=True):
                if row.replied:
                    continue
                row.question.answer(reply)  # again, after an interrupt
                complete = row.question.complete(self._answers)
                row.replied = True
                if complete is not None:
                    yield complete
            self._replying.popleft()

    def _release_ended(self, flags: Fetch, rows: list[_Row]) -> None:
        """Release the rows that have ended, and start copying their answers to the host.

        Those whose answers are asked about keep their slots.
        """
        ended = [
            row for row, over in zip(rows, flags["ended"], strict=True) if over and not row.ended
        ]
        slots = self._slots
        if not ended or slots is None:
            return
        self._arriving += list(self._copies(slots, ended))
        for row in ended:
            row.ended = True
        self._release([row for row in ended if row.number or row.question.own is None])

    def _release(self, rows: Sequence[_Row]) -> None:
        """Release the slots of some rows."""
        if not rows or self._slots is None:
            return
        by_slot = {row.slot: row for row in self._rows}
        for row in rows:
            del by_slot[row.slot]
        for source, target in self._slots.release([row.slot for row in rows]):
            by_slot[source].slot = target
        self._rows = sorted(by_slot.values(), key=lambda row: row.slot)

    def _copies(self, slots: Slots, ended: Sequence[_Row]) -> Iterator[tuple[list[_Row], Fetch]]:
        """Yield the answers that have ended, greedy and sampled ones, being copied to the host."""
        greedy = [row for row in ended if not row.number]
        if greedy:
            index = _index(slots, greedy)
            tokens, lens = _tokens_in(slots, index), slots.image_lens
            compares = bool(self._spec.signals.similarity_layers)
            prompts = [row.question.prompt for row in greedy] if compares else []
            found = of_answers(
                self._vlm, self._spec, slots.states, index, tokens, lens, slots.answer_tokens,
                prompts,
            )  # fmt: skip
            for row in greedy:
                row.question.prompt = PromptStates()
            yield greedy, Fetch(found)
        sampled = [row for row in ended if row.number]
        if sampled and slots.states is not None:
            index = _index(slots, sampled)
            yield sampled, Fetch(_tokens_in(slots, index) | last_states(slots.states, index))

    def _receive(self, batches: int) -> Iterator[Capture | Failure]:
        """Yield the questions that are complete with the oldest copies to the host."""
        for _ in range(batches):
            rows, fetch = self._arriving[0]
            for i, row in enumerate(rows):
                if row.received:
                    continue
                self._receive_answer(row, fetch, i)
                complete = row.question.complete(self._answers)
                row.received = True
                if complete is not None:
                    yield complete
            self._arriving.popleft()

    def _receive_answer(self, row: _Row, fetch: Fetch, i: int) -> None:
        """Add an answer that was copied to the host to those of its question."""
        vlm, spec, question = self._vlm, self._spec, row.question
        count = min(int(fetch[COUNT][i]), spec.max_new_tokens)
        if row.number:
            sample = finished_sample(vlm, spec.layers, fetch, i, count)
            question.samples[row.number] = sample
        else:
            question.greedy = finished(vlm, spec, question.prefilled, fetch, i, count)
            if self._asker is None or isinstance(question.greedy, Failure):
                question.own = None
            elif question.own is not None:
                question.held = self._asker.begin(question.own, question.greedy)

    def _make_slots(
        self, device_batch: DeviceBatch, layers: Layers, rows: int, tokens: int
    ) -> None:
        """Allocate slots long enough for a batch, as many as requested or as fit into memory."""
        vlm, spec = self._vlm, self._spec
        length = self.length_for(tokens)
        self._slots = self._stepper = None
        self._flags.clear()
        imaged = any(device_batch.batch.images)
        fixed = vlm.skipped_without_image if imaged else frozenset()
        recorded = device_batch.recorder.tensors()
        tables = len(spec.signals.lens_layers), recorded.first_logits.shape[1]
        kept = dict.fromkeys(spec.signals.answer_state_layers, vlm.hidden_size)
        listed = self._limit, len(spec.signals.attention_layers), spec.signals.attention_heads
        more = 4 * (math.prod(tables) + math.prod(listed)) + self._bytes_of_states(recorded, kept)
        space = rows_in_memory(vlm, layers, fixed, length, more=more)
        if IMAGE_TOKENS in spec.signals.names:
            space = min(space, HOST_BYTES // max(1, self._bytes_of_image(recorded)))
        many = max(rows, min(self.rows * self._answers, space))
        patches = max((layers[index][0].shape[2] for index in fixed), default=0)
        widths = widths_of_answers(vlm, spec, imaged=imaged, length=length, patches=patches)
        observed = spec.signals.divisions or spec.signals.map_layers
        while self._slots is None:
            states = states_of_answers(vlm, spec, many)
            try:
                if states is not None:
                    for state, width in widths.items():
                        states.expect(state, width, vlm.device)
                self._slots = make_slots(
                    layers, fixed, rows=many, length=length, limit=self._limit,
                    dims=dimensions(recorded),
                    states=states, ends=end_tokens(vlm),
                    divides=bool(states is not None and observed),
                    sampled=bool(spec.signals.sampling.count),
                    tables=tables if spec.signals.lens_layers else None,
                    dtype=vlm.dtype, answer_tokens=kept,
                )  # fmt: skip
            except torch.OutOfMemoryError:
                if many == rows:
                    raise
                many = max(rows, many // 2)
        self._stepper = Stepper(vlm, self._slots, tuple(widths), spec, imaged=imaged)

    def _bytes_of_states(self, recorded: RecordedTensors, kept: Mapping[int, int]) -> int:
        """Return the bytes of the states of tokens that are kept on the device for each row."""
        answers = sum(kept.values()) * (self._limit + 1) * self._vlm.dtype.itemsize
        compared = bool(self._spec.signals.similarity_layers)
        return answers + compared * self._bytes_of_image(recorded)

    def _bytes_of_image(self, recorded: RecordedTensors) -> int:
        """Return the bytes of the states of a prompt's image tokens, at most of those prefilled."""
        image = recorded.image_tokens
        most = max((stop - start for start, stop in image.spans), default=0)
        return most * sum(s.shape[1] * s.element_size() for s in image.layers.values())


def _index(slots: Slots, rows: Sequence[_Row]) -> Tensor:
    """Return the slots of some rows."""
    return to_device(torch.tensor([row.slot for row in rows]), slots.tokens.device)


def _tokens_in(slots: Slots, index: Tensor) -> dict[str, Tensor]:
    """Return tokens, log-probabilities and statistics of the answers in some slots."""
    return {
        COUNT: slots.count[index],
        CHOSEN: slots.chosen[index],
        LOGPROBS: slots.logprobs[index],
        STATISTICS: slots.statistics[index],
    }
