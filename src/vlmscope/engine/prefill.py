"""The prefill: one pass of a batch's prompts, and what is recorded of it.

The batch is passed to ``generate`` once, for one token (``prompt_pass``). That runs the vision
encoder and the decoder over the prompt; the hooks copy the pooled vision vector, the recorded
hidden states and the first logits out of this pass, and decoding continues from its cache.
``generate`` is used and not a plain ``forward``, because that numbers padded positions
differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.attention import AttentionRecorder, patch_members, recorder_for
from vlmscope.engine.attention_maps import MAPS, ImageKeys, copied_maps, image_keys, map_arrays
from vlmscope.engine.batch import Batch
from vlmscope.engine.device import Fetch
from vlmscope.engine.hooks import PrefillHooks, RecordedTensors
from vlmscope.engine.image_cache import Encodings, ImageEncoder
from vlmscope.engine.lens import ImageLens, image_lens_for, lens_arrays
from vlmscope.engine.pooling import TokenChoice, entropy_of, log_probabilities
from vlmscope.engine.prompt_pass import run_prompts
from vlmscope.engine.repeated_images import encoding_each_once
from vlmscope.engine.token_states import (
    AnswerTokenSteps,
    ImageTokenRecorder,
    image_token_arrays,
    image_tokens_for,
)
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.attention.kv_cache import (
    NAMES,
    cache_argument,
    cache_with,
    computing_all_tokens,
    keeping_first_states,
)
from vlmscope.model.attention.packed import packed
from vlmscope.model.attention.padded import attending_without_padding
from vlmscope.model.device_copies import to_device
from vlmscope.model.encoder_layout import contiguous_states
from vlmscope.model.encoder_widths import widened
from vlmscope.model.host_positions import HostCopies, numbering_on_host
from vlmscope.positions import IMAGE_POSITIONS, VISION_ONLY
from vlmscope.schema import TOP_FIRST_TOKENS, Capture, Sample
from vlmscope.selection import boundaries, locate
from vlmscope.signals import IMAGE_TOKENS, RecordedSignals

ARRAYS = "signals/"
"""Before the name of an array of a signal, among the tensors that are copied to the host."""

_STATISTICS = _ENTROPY, _IDS, _LOGPROBS = "entropy", "ids", "logprobs"


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch:
    """A batch on the device."""

    batch: Batch
    """The rows."""
    inputs: Mapping[str, Tensor]
    """Their tensors on the device."""
    own: Mapping[str, Tensor]
    """The same tensors on the CPU."""
    encodings: Encodings | None
    """Their images' encodings, if those are computed separately."""
    located: dict[str, Bool[np.ndarray, "batch length"]]
    """Position → the tokens it refers to in each row."""
    recorder: Recorder
    """What is recorded of the pass, once it has run."""


class Recorder(Protocol):
    """What is recorded of a prefill."""

    @property
    def shapes_(self) -> dict[str, tuple[int, ...]]:
        """Module → shape of its output."""

    def tensors(self) -> RecordedTensors:
        """Return the recorded tensors."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The recorded prefill of one row. It keeps nothing on the device."""

    sample: Sample
    """The row."""
    boundaries: Mapping[str, int]
    """Position → index into the prompt."""
    num_prompt_tokens: int
    """Number of tokens of the prompt, without padding."""
    image_sha256: str
    """SHA-256 of the decoded images, as in ``Batch.image_hashes``."""
    image_dhash: str
    """Perceptual hashes of the images."""
    image_thumbnail: str
    """Thumbnails of the images."""
    numbers: Fetch
    """The batch's vectors and statistics of the first token, being copied to the host."""
    index: int
    """Index of this row in them."""
    image_tokens: Fetch | None = None
    """The states of its image tokens, if they are recorded, being copied to the host."""
    keys: ImageKeys | None = None
    """What is drawn of its attention, if that is recorded."""
    signals: RecordedSignals = field(default_factory=RecordedSignals)
    """The signals."""

    def map_arrays(self, answer: Fetch | None = None, row: int = 0) -> dict[str, np.ndarray]:
        """Return the attention to each image token.

        Args:
            answer: What was copied to the host of some answers; None without an answer.
            row: The row there.
        """
        sources = [(self.numbers, self.index)]
        if answer is not None:
            sources.append((answer, row))
        return map_arrays(self.signals, self.keys, sources)

    def capture(self) -> Capture:
        """Return the capture without an answer."""
        numbers, row = self.numbers, self.index
        return Capture(
            sample=self.sample,
            boundaries=self.boundaries,
            num_prompt_tokens=self.num_prompt_tokens,
            image_sha256=self.image_sha256,
            image_dhash=self.image_dhash,
            image_thumbnail=self.image_thumbnail,
            # Copies: a view would keep the complete batch and its pinned memory.
            vectors={
                name: numbers[name][row].copy()
                for name in numbers
                if name not in _STATISTICS and not name.startswith((ARRAYS, MAPS))
            },
            signals=arrays_in(numbers, row)
            | image_token_arrays(self.image_tokens)
            | self.map_arrays(),
            first_token_entropy=float(numbers[_ENTROPY][row]),
            first_token_ids=numbers[_IDS][row].copy(),
            first_token_logprobs=numbers[_LOGPROBS][row].copy(),
            finish_reason="prefill",
        )


def make_device_batch(
    batch: Batch,
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    images: ImageEncoder | None,
    answer_states: AnswerStates | None = None,
    answer_tokens: AnswerTokenSteps | None = None,
) -> tuple[DeviceBatch, PrefillHooks]:
    """Copy a batch to the device, encode its images if that is done separately, make its hooks."""
    vlm = spec.with_encoder(vlm)
    located = tokens_of(batch, vlm, spec)
    encodings = images.encode(batch) if images is not None and any(batch.images) else None
    separate = () if encodings is None else vlm.family.encoder_inputs
    own = batch.model_inputs(without=separate)
    inputs = {name: to_device(tensor, vlm.device) for name, tensor in own.items()}
    prompts = inputs["input_ids"], inputs["attention_mask"]
    patches = patch_members(batch, vlm, spec.signals)
    attention = recorder_for(vlm, spec.signals, *prompts, answer_states, patches)
    lens = image_lens_for(vlm, spec, batch.input_ids, batch.attention_mask)
    hooks = make_hooks(
        vlm, spec, located, inputs, batch.images, answer_states, encodings, attention, lens,
        image_tokens_for(vlm, spec, batch.input_ids, batch.attention_mask), answer_tokens, own,
    )  # fmt: skip
    return DeviceBatch(batch, inputs, own, encodings, located, hooks), hooks


def make_hooks(
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    located: Mapping[str, Bool[np.ndarray, "batch length"]],
    inputs: Mapping[str, Tensor],
    images: Sequence[int],
    answer_states: AnswerStates | None = None,
    encodings: Encodings | None = None,
    attention: AttentionRecorder | None = None,
    lens: ImageLens | None = None,
    image_tokens: ImageTokenRecorder | None = None,
    answer_tokens: AnswerTokenSteps | None = None,
    own: Mapping[str, Tensor] | None = None,
) -> PrefillHooks:
    """Return the hooks that record positions of a pass, given the tokens they refer to."""
    return PrefillHooks(
        vlm,
        spec,
        {name: TokenChoice.from_mask(tokens, vlm.device) for name, tokens in located.items()},
        inputs,
        images,
        answer_states,
        encodings,
        attention,
        lens,
        image_tokens,
        answer_tokens,
        own,
    )


def run(
    device_batch: DeviceBatch,
    hooks: PrefillHooks,
    vlm: VisionLanguageModel,
    config: Any,
    **options: Any,
) -> Any:
    """Run ``generate`` with the hooks registered; return its result.

    Args:
        device_batch: The batch.
        hooks: Its hooks.
        vlm: The model.
        config: Settings of ``generate``. For one token, the model's output is returned, with its
            cache, as soon as the GPU's work is launched (``prompt_pass``).
        options: Passed to ``generate``.
    """
    if device_batch.encodings is not None:
        name = cache_argument(type(vlm.model).generate)
        options[name] = cache_with(device_batch.encodings.layers, vlm.num_layers)
    batch, inputs, own = device_batch.batch, device_batch.inputs, device_batch.own
    known = HostCopies(inputs, own)
    with (
        prefilling(vlm, hooks, batch.attention_mask, known),
        encoding_each_once(vlm, batch, hooks.shapes_, known),
    ):
        if config.max_new_tokens == 1 and not options.keys() - set(NAMES):
            return run_prompts(vlm, inputs, own, config, **options)
        return vlm.model.generate(**inputs, generation_config=config, **options)


@contextmanager
def prefilling(
    vlm: VisionLanguageModel,
    hooks: PrefillHooks,
    mask: Int[np.ndarray, "batch length"],
    known: HostCopies | None = None,
) -> Iterator[None]:
    """Context of a pass over prompts: hooks, and faster operations with the same result.

    Args:
        vlm: The model.
        hooks: What is recorded.
        mask: 1 where a token is real.
        known: Inputs whose numbers the CPU has too.
    """
    numbering: AbstractContextManager[None] = nullcontext()
    if vlm.cuda_devices:
        numbering = numbering_on_host(vlm.model, vlm.vision_tower, known or HostCopies())
    with (
        attending_without_padding(vlm.decoder, mask.astype(bool), hooks.observer),
        packed(vlm),
        widened(vlm),
        contiguous_states(vlm),
        keeping_first_states(),
        computing_all_tokens(vlm.decoder),
        numbering,
        hooks.registered(),
    ):
        yield


def start_copies(
    device_batch: DeviceBatch,
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    first: Int[Tensor, " batch"] | None = None,
) -> list[Prefilled]:
    """Return the recorded tensors row by row, and start copying them to the host.

    Args:
        device_batch: The batch.
        vlm: The model.
        signals: The signals.
        first: The first token of each row's answer (default: the most likely one).
    """
    batch, recorded = device_batch.batch, device_batch.recorder.tensors()
    numbers = {} if recorded.vision is None else {VISION_ONLY: recorded.vision}
    numbers |= recorded.states
    if first is None:
        first = recorded.first_logits.argmax(dim=1)
    arrays = recorded.arrays | lens_arrays(vlm, signals, recorded.states, first)
    numbers |= {ARRAYS + name: values for name, values in arrays.items()}
    numbers |= copied_maps(recorded.maps)
    layers = signals.layers(IMAGE_TOKENS) if any(batch.images) else ()
    states = recorded.image_tokens.copied(layers, len(batch.samples))
    keys = image_keys(batch, vlm, recorded.maps)
    statistics = first_token_statistics(recorded.first_logits)
    fetch = Fetch(numbers | dict(zip(_STATISTICS, statistics, strict=True)))
    return [
        Prefilled(
            sample=sample,
            boundaries=boundaries(device_batch.located, batch.attention_mask, row),
            num_prompt_tokens=int(batch.attention_mask[row].sum()),
            image_sha256=batch.image_hashes[row],
            image_dhash=batch.image_dhashes[row],
            image_thumbnail=batch.image_thumbnails[row],
            numbers=fetch,
            index=row,
            image_tokens=states[row],
            keys=keys[row],
            signals=signals,
        )
        for row, sample in enumerate(batch.samples)
    ]


def arrays_in(numbers: Fetch, row: int) -> dict[str, np.ndarray]:
    """Return the arrays of signals of one row."""
    return {
        name.removeprefix(ARRAYS): numbers[name][row].copy()
        for name in numbers
        if name.startswith(ARRAYS)
    }


def first_token_statistics(
    logits: Float[Tensor, "batch vocabulary"],
) -> tuple[Float[Tensor, " batch"], Int[Tensor, "batch top"], Float[Tensor, "batch top"]]:
    """Return the entropy in nats, the most likely first tokens, and their log-probabilities.

    >>> import torch
    >>> entropy, ids, logprobs = first_token_statistics(torch.zeros(1, 32))
    >>> round(float(entropy), 4) == round(float(np.log(32)), 4), tuple(ids.shape)
    (True, (1, 20))
    """
    logprobs = log_probabilities(logits)
    entropy = entropy_of(logprobs)
    top, ids = logprobs.topk(min(TOP_FIRST_TOKENS, logits.shape[1]), dim=1)
    return entropy, ids, top


def tokens_of(
    batch: Batch, vlm: VisionLanguageModel, spec: ResolvedSpec
) -> dict[str, Bool[np.ndarray, "batch length"]]:
    """Return, for each position of the prompt, the tokens it refers to in each row."""
    imaged = any(batch.images)
    read_at = {
        name: spec.read_at(name)
        for name in spec.prompt_positions
        if imaged or name not in IMAGE_POSITIONS
    }
    found = locate(
        batch.input_ids,
        batch.attention_mask,
        vlm.image_token_id,
        list(read_at.values()),
        batch.after_question,
    )
    return {name: found[position] for name, position in read_at.items()}
