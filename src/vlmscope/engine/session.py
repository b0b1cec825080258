"""A session: prefills batches and decodes their answers; ``capture`` runs one.

The fast path is vlmscope's own: one prefill, then answers in slots (``decoding``). If the model,
the device or the checkpoint's own generation settings do not support it, ``generate`` decodes the
complete answers, batch by batch, with the same result.

Each batch is run through the model once: four representations from one prefill. ``reference.py`` is
the slow method that this must be equal to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.answers import (
    CHOSEN,
    LOGPROBS,
    STATISTICS,
    StepLogprobs,
    check_finite,
    config_feeding_end,
    end_tokens,
    finished,
    forcing_end,
    greedy_config,
    of_answers,
    states_of_answers,
    with_samples,
)
from vlmscope.engine.batch import Batch, bands_of, prepare
from vlmscope.engine.decoding.asking import SlotAsker
from vlmscope.engine.decoding.scheduler import Decoding, InterruptedStep
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.engine.device import Fetch, is_dead_device, is_out_of_memory
from vlmscope.engine.generated_samples import samples_by_generate
from vlmscope.engine.hooks import PrefillHooks
from vlmscope.engine.image_cache import ImageEncoder
from vlmscope.engine.p_true import Asker
from vlmscope.engine.prefill import DeviceBatch, Prefilled, make_device_batch, run, start_copies
from vlmscope.engine.shared_prefill import run_shared
from vlmscope.engine.shared_prefix import window_of
from vlmscope.engine.similarity import prompt_states
from vlmscope.engine.token_states import AnswerTokenSteps
from vlmscope.errors import InputError, one_line
from vlmscope.locking import model_lock
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.attention.flash import attending_at_own_width, configurations_of_encoder
from vlmscope.model.attention.kv_cache import cache_of, keys_and_values
from vlmscope.model.attention.pieces import attending_in_pieces
from vlmscope.model.computing import computing
from vlmscope.model.elementwise import ElementwiseKernels
from vlmscope.model.lengths import ALONE, ONE_BAND, unscaled
from vlmscope.model.p_true import reply_tokens
from vlmscope.model.preprocessing import Preprocessing
from vlmscope.sampling import SampledAnswer
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.shown_once import warn

Results = list[Capture | Failure]


class CaptureSession:
    """Captures batch after batch.

    Sessions of one model, or of several, may be used in different threads, and interleaved in one.
    A session that threads share returns finished rows to the thread that calls next.

    Args:
        vlm: The model.
        spec: What to record.
        rows: Maximum number of questions that are answered at once.
        kernels: Kernels that replace chains of operations; by default those that cost nothing at
            the start.
        own_width: Whether vision encoders use a kernel for the width of their heads, which is
            compiled first (``attention.flash``).

    Attributes:
        shapes_: Module → shape of its output in the latest prefill.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        spec: ResolvedSpec,
        rows: int,
        *,
        kernels: ElementwiseKernels | None = None,
        own_width: bool = False,
    ) -> None:
        self._vlm = vlm
        self._kernels = ElementwiseKernels(vlm) if kernels is None else kernels
        self._own_width = own_width
        self._spec = spec
        self._gpus = vlm.cuda_devices
        self._encoders = configurations_of_encoder(vlm)
        self._finished: Results = []
        self._asker: Asker | None = None
        self._slot_asker: SlotAsker | None = None
        if spec.signals.asks:
            words = reply_tokens(vlm.processor.tokenizer)
            self._asker = Asker(vlm, spec, words)
            self._slot_asker = SlotAsker(vlm, spec, words)
        self._decoding = Decoding(vlm, spec, rows, self._slot_asker)
        self._images: ImageEncoder | None = None
        self._prefilled: list[Prefilled] = []
        self._copies_later = bool(self._gpus)
        self._not_copied: set[str] = set()
        self._stepwise: bool | None = None
        self._too_long = sys.maxsize
        self._lost: list[Sample] = []
        self.shapes_: dict[str, tuple[int, ...]] = {}

    @property
    def shares_prefix(self) -> bool:
        """Whether questions about one image may share the beginning of their prompts.

        Not if ``generate`` decodes the answers, which needs the images of every row.
        """
        return self._stepwise is not False or not self._spec.max_new_tokens

    @property
    def prepares_with(self) -> VisionLanguageModel | Preprocessing:
        """What ``prepare`` is given, so that no batch has to be prepared again."""
        return self._vlm if self.shares_prefix else self._vlm.preprocessing

    def submit(self, batch: Batch) -> Results:
        """Prefill a batch; return rows that are finished, of this batch or of earlier ones.

        Args:
            batch: The rows, from ``prepare``.

        Raises:
            InputError: The batch was prepared for another spec and its rows cannot be batched.
            torch.OutOfMemoryError: The batch does not fit; nothing of it is recorded, and the rows
                of earlier batches are not affected.
        """
        band = self._band(batch)
        with self._computing():
            self._run(batch, band)
            return self._take_finished(at_once=len(batch.samples))

    def _run(self, batch: Batch, band: int) -> None:
        """Prefill a batch; its answers are decoded in slots, or by ``generate``."""
        if self._spec.max_new_tokens and (band == ALONE or self._must_generate(batch)):
            self._generate(batch)
        else:
            self._prefill(batch, band)

    def _band(self, batch: Batch) -> int:
        """Return the length band of all rows of a batch."""
        bands = set(bands_of(batch, self._vlm, self._spec))
        if len(bands) > 1 or (ALONE in bands and len(batch.samples) > 1):
            raise InputError(
                f"a batch of {len(batch.samples)} rows: their lengths are on both sides of one at "
                "which this decoder computes differently; prepare the batch with the spec that it "
                "is captured with"
            )
        return bands.pop()

    def drain(self) -> Results:
        """Finish all rows and return them."""
        with self._computing():
            self._collect(self._decoding.drain)
            self._finish_prefilled()
            return self._take_finished()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Context for running the model on its own GPU."""
        with ExitStack() as stack:
            stack.enter_context(computing())
            for device in self._gpus[:1]:  # graphs and streams belong to the current device
                stack.enter_context(torch.cuda.device(device))
            stack.enter_context(self._kernels.in_place())
            if self._own_width:
                stack.enter_context(attending_at_own_width(self._vlm))
            else:
                stack.enter_context(attending_in_pieces(self._encoders))
            yield

    def pop_failed(self) -> list[Sample]:
        """Return the rows of earlier batches whose step or copy failed; submit them again."""
        with model_lock():
            lost, self._lost = self._lost, []
        return lost

    def forget(self, *, slots: bool = False) -> bool:
        """Free cached data, if memory runs out.

        Args:
            slots: Also finish the rows that are being answered, and free the slots.

        Returns:
            Whether there were slots to free.
        """
        with self._computing():
            if self._images is not None:
                self._images.forget()
            if not slots:
                return False
            decoding = self._decoding
            self._collect(decoding.drain)
            # A step that fails drops the slots itself.
            return self._decoding.forget() or self._decoding is not decoding

    def _device_batch(
        self,
        batch: Batch,
        states: AnswerStates | None = None,
        answer_tokens: AnswerTokenSteps | None = None,
    ) -> tuple[DeviceBatch, PrefillHooks]:
        """Copy a batch to the device, encode its images if that is done separately; make hooks."""
        vlm = self._vlm
        if self._images is None and vlm.family.cross_attention and vlm.projector is not None:
            self._images = ImageEncoder(vlm, self._spec.vision_pooling)
        return make_device_batch(batch, vlm, self._spec, self._images, states, answer_tokens)

    def _take_finished(self, at_once: int = 0) -> Results:
        """Return the finished rows. Rows not returned due to an error are in the next result.

        Args:
            at_once: As in ``Asker.asked``.
        """
        finished = list(self._finished)
        self._finished.clear()
        return (
            finished if self._asker is None else self._asker.asked(finished, self._images, at_once)
        )

    def _prefill(self, batch: Batch, band: int) -> None:
        """Prefill a batch, and add its rows to those that are being decoded."""
        new = len(batch.samples)
        while not self._decoding.has_room(new, band):
            self._collect(lambda: self._decoding.step(wanted=new))
        found = self._run_prompts(batch, band)
        if found is None:
            self._prefill_whole(batch)
            return
        device_batch, cache = found
        self.shapes_ = device_batch.recorder.shapes_
        if self._spec.max_new_tokens:
            self._answer(device_batch, cache, batch, band)
            return
        rows = start_copies(device_batch, self._vlm, self._spec.signals)
        if self._copies_later and self._not_copied.isdisjoint(row.sample.id for row in rows):
            self._prefilled += rows
        else:  # all or none: an error is one of this batch, which is run again in pieces
            self._finished += [check_finite(row.capture()) for row in rows]
            self._not_copied.difference_update(row.sample.id for row in rows)

    def _run_prompts(self, batch: Batch, band: int) -> tuple[DeviceBatch, Any] | None:
        """Run a batch's prompts; return it and its cache, None if it must not share beginnings."""
        config = greedy_config(self._vlm, 1)
        config.return_dict_in_generate = True
        with unscaled(self._vlm.model, ONE_BAND if band == ALONE else self._vlm.lengths):
            if batch.prefix is not None:
                found = run_shared(batch, self._vlm, self._spec, config)
            else:
                device_batch, hooks = self._device_batch(batch)
                found = device_batch, cache_of(run(device_batch, hooks, self._vlm, config))
        self._finish_prefilled()  # while the device computes
        return found

    def _prefill_whole(self, batch: Batch) -> None:
        """Prepare the rows of a batch again, each prompt as a whole, and prefill them."""
        batches, failures = prepare(batch.samples, self._vlm.preprocessing, self._spec)
        for one in batches:
            self._run(one, self._band(one))
        self._finished += failures  # last: if the model raises, the rows are prepared again

    def _answer(self, device_batch: DeviceBatch, cache: Any, batch: Batch, band: int) -> None:
        tokens = batch.inputs["input_ids"].shape[1]
        length = self._decoding.length_for(tokens)
        window = None if batch.prefix is None else window_of(self._vlm)  # else the cache has it
        fits = window is None or length <= window
        layers = keys_and_values(cache, length) if fits else None
        if layers is None:
            self._too_long = min(self._too_long, tokens)
            self._generate(batch)
            return
        if not self._decoding.fits(layers, tokens, device_batch.recorder.tensors()):
            self._collect(self._decoding.drain)
        rows = start_copies(device_batch, self._vlm, self._spec.signals)
        self._decoding.admit(device_batch, rows, layers, band)

    def _finish_prefilled(self) -> None:
        """Finish the rows without answers whose tensors are being copied to the host.

        The batch that is being submitted is not to blame if that fails: the rows are returned by
        ``pop_failed``, and next time they are copied before ``submit`` returns.
        """
        while self._prefilled:
            row = self._prefilled.pop(0)
            try:
                self._finished.append(check_finite(row.capture()))
            except BaseException as error:
                self._lost.append(row.sample)
                self._not_copied.add(row.sample.id)
                if not isinstance(error, Exception) or is_dead_device(error):
                    raise

    def _collect(self, work: Callable[[], Results | Iterator[Capture | Failure]]) -> None:
        """Run decoding steps and keep the finished rows.

        If a step fails, the unfinished rows are returned by ``pop_failed``; so are those of a step
        that Ctrl-C interrupted, in the next call. If memory ran out, the next slots are fewer.
        After any other error ``generate`` decodes the answers.
        """
        try:
            for row in work():
                self._finished.append(row)
        except Exception as error:  # noqa: BLE001 - the dropped rows are run again
            decoding = self._decoding
            self._lost += decoding.samples
            rows = decoding.rows if isinstance(error, InterruptedStep) else 0
            rows = decoding.capacity // 2 if is_out_of_memory(error) else rows
            self._stepwise = bool(self._stepwise and rows)
            self._decoding = Decoding(self._vlm, self._spec, max(1, rows), self._slot_asker)
            if not self._stepwise:
                warn(
                    f"a decoding step failed ({type(error).__name__}: {one_line(error)}); generate "
                    "decodes the answers from now on, which is slower",
                    stacklevel=2,
                )

    def _must_generate(self, batch: Batch) -> bool:
        """Return whether the answers of a batch must be decoded with ``generate``."""
        if self._stepwise is None:
            self._stepwise = not why_not_in_slots(self._vlm)
        # A prompt without an image skips blocks that the other rows do not skip.
        skips = bool(self._vlm.skipped_without_image) and not any(batch.images)
        return not self._stepwise or skips or batch.inputs["input_ids"].shape[1] >= self._too_long

    def _generate(self, batch: Batch) -> None:
        """Prefill a batch and decode its answers with the library's ``generate``."""
        if batch.prefix is not None:  # ``generate`` needs the images of every row
            self._prefill_whole(batch)
            return
        found = self._generated(batch)
        samples = self._samples_by_generate(batch)
        self._finished += [with_samples(*each) for each in zip(found, samples, strict=True)]

    def _generated(self, batch: Batch) -> Results:
        """Return the rows of a batch with their greedy answers."""
        vlm, spec, rows = self._vlm, self._spec, len(batch.samples)
        states = states_of_answers(vlm, spec, rows)
        feeds_end = bool(spec.signals.answer_state_layers)
        answer_tokens = AnswerTokenSteps(spec.signals.answer_state_layers)
        device_batch, hooks = self._device_batch(batch, states, answer_tokens)
        steps = StepLogprobs(hooks, states, end_tokens(vlm) if feeds_end else ())
        config = (config_feeding_end if feeds_end else greedy_config)(vlm, spec.decoded_tokens)
        prompt = batch.inputs["input_ids"].shape[1]
        output = run(
            device_batch, hooks, vlm, config, stopping_criteria=[steps],
            logits_processor=forcing_end(config, prompt + spec.max_new_tokens, vlm),
        )  # fmt: skip
        self.shapes_ = device_batch.recorder.shapes_
        new, chosen = spec.max_new_tokens, output[:, prompt : prompt + spec.max_new_tokens]
        tokens = {
            CHOSEN: chosen,
            LOGPROBS: torch.stack(steps.steps_[:new], dim=1),
            STATISTICS: torch.stack(steps.statistics_[:new], dim=1),
        }
        every = torch.arange(rows, device=chosen.device)
        recorded = device_batch.recorder.tensors()
        prompts = prompt_states(spec.signals, recorded.last_states, recorded.image_tokens, rows)
        found = of_answers(
            vlm, spec, states, every, tokens, recorded.image_lens, answer_tokens.states(), prompts
        )
        numbers = Fetch(found)
        prefilled = start_copies(device_batch, vlm, spec.signals, first=chosen[:, 0])
        return [
            finished(vlm, spec, row, numbers, i, chosen.shape[1]) for i, row in enumerate(prefilled)
        ]

    def _samples_by_generate(self, batch: Batch) -> list[list[SampledAnswer]]:
        """Return the sampled answers of each row of a batch that ``generate`` answers."""
        # The inputs of an architecture that a user describes may not be rows one after the other.
        unknown = bool(self._vlm.one_at_a_time) or self._vlm.description is not None
        alone = unknown or self._band(batch) == ALONE
        return samples_by_generate(batch, self._vlm, self._spec, self._images, alone=alone)
