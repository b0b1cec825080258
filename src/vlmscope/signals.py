"""Signals: what is recorded of a row besides hidden states and the answer, in the same pass.

The option ``--signals`` selects them; docs/signals.md describes what each contains. They are data:
a name, and for a model the layers and widths that it has (``RecordedSignals``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vlmscope.arguments import several_names
from vlmscope.errors import InputError
from vlmscope.sampling import (
    SAMPLE_LISTS,
    SAMPLE_TEXTS,
    SAMPLES,
    Sampling,
    layer_name,
)

ENTROPY = "entropy"
ATTENTION = "attention"
CROSS_ATTENTION = "cross_attention"
CROSS_PATCHES = "cross_attention_patches"
LENS = "lens"
IMAGE_TOKENS = "image_tokens"
ANSWER_TOKENS = "answer_tokens"

TOKEN_STATES = (IMAGE_TOKENS, ANSWER_TOKENS)
"""Signals that are hidden states of several tokens at the chosen layers: arrays ``[tokens, D]``."""

SIMILARITY = "similarity"

P_TRUE, P_TRUE_MASS = "p_true", "p_true_mass"
"""Numbers of the signal ``p_true``: the log-odds of "yes" over "no" when the model is asked whether
its answer is true, and the probability of both together; NaN if it cannot be asked."""

OF_END = (ANSWER_TOKENS, SIMILARITY)
"""Signals of the states of all tokens of an answer: its end-of-turn token is processed for them."""

NEED_ANSWER = (*OF_END, P_TRUE)
"""Signals that only runs with answers have."""

ATTENTION_MAP = "attention_map"
"""The attention to each image token, or to each patch of an image in layers of cross-attention."""

BOXES = f"{ATTENTION_MAP}/boxes"
"""Array ``[tokens, 5]``: the number of the image that each image token is of, and the part of it
that it covers, as fractions: top, left, bottom, right. −1 where that is not known, or none. Images
are numbered in the order of the row."""

OF_IMAGE_TOKENS = (IMAGE_TOKENS, ATTENTION_MAP)
"""The first parts of the names of arrays with one entry for each image token of a row."""

OF_CROSS_ATTENTION = (CROSS_ATTENTION, CROSS_PATCHES)
"""How attention to images alone is divided: among tiles, and among ``PATCHES``."""

DIVISIONS = (ATTENTION, *OF_CROSS_ATTENTION)
"""How attention is divided: among groups of tokens, and among the parts of images."""

PREVIOUS = "attention_previous"
"""Array ``[tokens of the answer without the end of turn, layers]``, with the signal ``attention``:
how much each token attends to the one before it, by one head of each layer."""

PREVIOUS_HEAD = "attention_previous_head"
"""Array ``[layers]``: that head, which attends most to the previous token, on average over the
tokens from the second on. Of several equal ones the first; ``NO_TOKEN`` for an empty answer."""

OF_WEIGHTS = (*DIVISIONS, ATTENTION_MAP, PREVIOUS)
"""What is computed from attention weights."""

SUBLAYERS = ("heads", "attn_out", "mlp")
"""Signals that are vectors at the chosen positions and layers: the input of the attention's output
projection (the heads, one after the other), and the outputs of the two parts of a block."""

SIGNALS: Mapping[str, str] = {
    ENTROPY: "entropy, largest log-probability and margin of each generated token; always recorded",
    ATTENTION: "how the heads of every layer divide their attention among image, text and answer",
    ATTENTION_MAP: "attention to each image token at the chosen layers, to be drawn over the image",
    "heads": "outputs of the attention heads at the chosen positions and layers",
    "attn_out": "outputs of the attention blocks at the chosen positions and layers",
    "mlp": "outputs of the feed-forward blocks at the chosen positions and layers",
    LENS: "logit lens: the tokens that the chosen positions and layers, and image tokens, predict",
    IMAGE_TOKENS: "hidden states of all image tokens at the chosen layers; large",
    ANSWER_TOKENS: "hidden states of all tokens of the answer at the chosen layers; large",
    SIMILARITY: "cosines of answer tokens with image tokens and with the last prompt token",
    SAMPLES: "sampled answers, and the state of each one's last token; --samples says how many",
    P_TRUE: "log-odds of yes when the model is asked whether its answer is true; one more prefill",
}
"""Name → what it is."""

PRESETS: Mapping[str, tuple[str, ...]] = {
    "detectors": (ENTROPY, ATTENTION, "heads", LENS, SIMILARITY)
}
"""Names that stand for several signals: ``detectors`` for those that detectors read of a row."""

DEFAULT_SIGNALS = (ENTROPY,)
"""The signals that are recorded if no others are selected."""

Signals = str | Iterable[str]
"""Signals: one name, several, or a comma-separated text."""

ATTENDED = ("image", "text", "answer", "first")
"""The groups of tokens that attention is divided among, in the order in which shares are stored:
image tokens; other tokens of the prompt; tokens of the answer; the first token of the prompt, if it
is not an image token. Each token is in one group, so the shares of a head add up to 1, without
that of an attention sink if there is one."""

PATCHES = ("image", "padding", "tile")
"""The groups of patches that attention to images alone is divided among, in the order in which
shares are stored: patches with a part of an image; patches of the padding beside it; and the first
of each tile, which is no part of an image. The shares of a head add up to 1."""

OF_ANSWER = ("mean", "max", "first")
"""What is stored of the answer's attention, in this order: mean and maximum over the tokens of the
answer, and the first token's."""

TOKEN_STATISTICS = ("entropy", "max_logprob", "margin")
"""Arrays ``[T]`` of the signal ``entropy``, like ``answer_logprobs``: entropy in nats of each
token's distribution, the largest log-probability, and its distance to the second largest."""

LENS_TOP = 10
"""Number of tokens that the logit lens stores of each state."""

LENS_TOKENS, LENS_PROBS = "lens_tokens", "lens_probs"
"""Arrays ``[positions, layers, 10]``: the likeliest tokens and their probabilities."""

LENS_ENTROPY, LENS_RANK, LENS_PROB = "lens_entropy", "lens_answer_rank", "lens_answer_prob"
"""Arrays ``[positions, layers]``: the entropy in nats; the rank, from 0, and the probability of the
likeliest first token of the answer, which is the first of ``first_token_ids``."""

LENS_ARRAYS = (LENS_TOKENS, LENS_PROBS, LENS_ENTROPY, LENS_RANK, LENS_PROB)
"""The arrays of the logit lens at single positions."""

INTEGERS = (LENS_TOKENS, LENS_RANK, PREVIOUS_HEAD)
"""The arrays of integers, int32; the others are float32."""

NO_TOKEN = -1
"""Value in an array of integers where a row has no such position, or no token."""

INTERNAL_CONFIDENCE = "internal_confidence"
"""Arrays ``[T]``, one for each layer: for each token of the answer, the largest probability that
the state of an image token gives it. Absent for questions without an image."""


LAST_PROMPT, IMAGE_MEAN, IMAGE_MAX = "last_prompt_token", "image_mean", "image_max"
IMAGE_TOP, IMAGE_LENS = "image_top", "image_lens_top"

SIMILARITY_KINDS = (LAST_PROMPT, IMAGE_MEAN, IMAGE_TOP, IMAGE_MAX, IMAGE_LENS)
"""Cosines of a token of the answer: with the last prompt token; with the image tokens their mean,
the mean of the largest ``TOP_IMAGE_TOKENS``, and the largest; and with the lens the mean over the
image tokens that give the token the largest probabilities."""

TOP_IMAGE_TOKENS = 32
"""Number of image tokens that means of the largest are of; all, if there are fewer."""


def similarity_name(kind: str, layer: int) -> str:
    """Return the name of the array of one of ``SIMILARITY_KINDS`` at a layer.

    >>> similarity_name(IMAGE_TOP, 20)
    'similarity/image_top/layer_20'
    """
    return f"{SIMILARITY}/{kind}/layer_{layer}"


def confidence_name(layer: int) -> str:
    """Return the name of the array of ``INTERNAL_CONFIDENCE`` at a layer.

    >>> confidence_name(20)
    'internal_confidence/layer_20'
    """
    return f"{INTERNAL_CONFIDENCE}/layer_{layer}"


def token_states_name(signal: str, layer: int) -> str:
    """Return the name of the array of one of ``TOKEN_STATES`` at a layer.

    >>> token_states_name(IMAGE_TOKENS, 20)
    'image_tokens/layer_20'
    """
    return f"{signal}/layer_{layer}"


def is_token_states(name: str) -> bool:
    """Return whether an array has a vector for each of several tokens, judging by its name.

    >>> is_token_states("answer_tokens/layer_2"), is_token_states("entropy")
    (True, False)
    """
    return name.partition("/")[0] in TOKEN_STATES


def is_token_rows(name: str) -> bool:
    """Return whether an array is ``[tokens, width]``, judging by its name.

    >>> is_token_rows("attention_map/layer_2"), is_token_rows("entropy")
    (True, False)
    """
    return name.partition("/")[0] in (*TOKEN_STATES, ATTENTION_MAP)


def is_per_token(name: str) -> bool:
    """Return whether an array has one value for each token of the answer.

    >>> is_per_token("entropy"), is_per_token(confidence_name(2)), is_per_token(LENS_PROBS)
    (True, True, False)
    """
    group = name.partition("/")[0]
    return name in TOKEN_STATISTICS or group in (INTERNAL_CONFIDENCE, SIMILARITY)


def needs_image(name: str) -> bool:
    """Return whether a question without an image has no such array.

    >>> needs_image(confidence_name(2)), needs_image("entropy")
    (True, False)
    """
    group, _, rest = name.partition("/")
    if group == SIMILARITY:
        return not rest.startswith(LAST_PROMPT)
    return group in (INTERNAL_CONFIDENCE, *OF_IMAGE_TOKENS)


def single_positions(positions: Iterable[str]) -> tuple[str, ...]:
    """Return the positions that are one token, each once: those that the logit lens is read at.

    >>> single_positions(("image_mean", "last_prompt_token", "last_prompt_token"))
    ('last_prompt_token',)
    """
    return tuple(name for name in dict.fromkeys(positions) if not name.endswith("_mean"))


def signal_names(signals: Signals, more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the signals that are selected, each once, in the order of ``SIGNALS``.

    Args:
        signals: Names of signals or presets; ``none`` selects only what is always recorded.
        more: Further names, which other options select.

    Raises:
        InputError: A name is neither.

    >>> signal_names("heads,attention"), signal_names("none")
    (('entropy', 'attention', 'heads'), ('entropy',))
    """
    if not isinstance(signals, Iterable):
        raise InputError(f"--signals {signals!r}: expected names from {_KNOWN}")
    chosen = {*DEFAULT_SIGNALS, *more}
    for name in several_names(signals):
        if name == "none":
            continue
        if not isinstance(name, str) or name not in {*SIGNALS, *PRESETS}:
            raise InputError(f"--signals: {name!r} is not a signal; choose from {_KNOWN}")
        chosen |= set(PRESETS.get(name, (name,)))
    return tuple(name for name in SIGNALS if name in chosen)


_KNOWN = ", ".join((*SIGNALS, *PRESETS, "none"))


@dataclass(frozen=True, slots=True)
class RecordedSignals:
    """The signals that are recorded of one model: which of its layers have them."""

    names: tuple[str, ...] = DEFAULT_SIGNALS
    """The signals."""
    widths: Mapping[str, int] = field(default_factory=dict)
    """``heads/layer_20`` → width of that sub-layer's vector, for the chosen layers that have it."""
    attention_layers: tuple[int, ...] = ()
    """The decoder layers whose attention is recorded; empty without the signal ``attention``."""
    attention_heads: int = 0
    """Their number of heads."""
    cross_attention_layers: tuple[int, ...] = ()
    """The layers that attend to the image alone, if the decoder has such layers."""
    tiles: int = 0
    """Tiles of an image that they attend to."""
    lens_positions: tuple[str, ...] = ()
    """The positions that the logit lens is read at; empty without the signal ``lens``."""
    lens_layers: tuple[int, ...] = ()
    """The decoder layers that it is read at."""
    sampling: Sampling = field(default_factory=Sampling)
    """How answers are sampled."""
    similarity_layers: tuple[int, ...] = ()
    """The decoder layers at which the answer's tokens are compared with the prompt's."""

    def layers(self, sublayer: str) -> tuple[int, ...]:
        """Return the layers at which a sub-layer is recorded.

        >>> RecordedSignals(widths={"heads/layer_2": 8, "mlp/layer_3": 8}).layers("heads")
        (2,)
        """
        prefix = f"{sublayer}/layer_"
        return tuple(
            int(path.removeprefix(prefix)) for path in self.widths if path.startswith(prefix)
        )

    @property
    def sublayers(self) -> tuple[str, ...]:
        """The sub-layers that are recorded."""
        return tuple(name for name in SUBLAYERS if self.layers(name))

    @property
    def divisions(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """The divisions of attention that are recorded: their layers and number of parts."""
        found = {
            ATTENTION: (self.attention_layers, len(ATTENDED)),
            CROSS_ATTENTION: (self.cross_attention_layers, self.tiles),
            CROSS_PATCHES: (self.cross_attention_layers, len(PATCHES)),
        }
        return {name: each for name, each in found.items() if each[0]}

    @property
    def of_answer(self) -> bool:
        """Whether something is recorded of each token of the answer while it is processed."""
        observed = self.divisions or self.map_layers
        return bool(observed or self.sampling.count or self.answer_state_layers)

    @property
    def answer_state_layers(self) -> tuple[int, ...]:
        """The layers at which the states of all tokens of the answer are needed."""
        return self.similarity_layers or self.layers(ANSWER_TOKENS)

    @property
    def image_state_layers(self) -> tuple[int, ...]:
        """The layers at which the states of all image tokens are needed."""
        return self.similarity_layers or self.layers(IMAGE_TOKENS)

    @property
    def similarity_names(self) -> tuple[str, ...]:
        """The arrays of the signal ``similarity``."""
        kinds = [kind for kind in SIMILARITY_KINDS if self.lens_layers or kind != IMAGE_LENS]
        return tuple(similarity_name(kind, k) for kind in kinds for k in self.similarity_layers)

    def token_widths(self, *, answers: bool) -> dict[str, int]:
        """Return the arrays of a row with a vector for each of several tokens, and their widths.

        Args:
            answers: Whether answers are generated.
        """
        names = TOKEN_STATES if answers else (IMAGE_TOKENS,)
        maps = dict.fromkeys(self.map_names, 1 + answers)
        boxes = {BOXES: 5} if maps else {}
        states = {
            path: width for path, width in self.widths.items() if path.partition("/")[0] in names
        }
        return {**states, **maps, **boxes}

    @property
    def map_layers(self) -> tuple[int, ...]:
        """The layers of which the attention to each image token is recorded."""
        return self.layers(ATTENTION_MAP)

    @property
    def map_names(self) -> tuple[str, ...]:
        """The arrays with the attention to each image token."""
        return tuple(token_states_name(ATTENTION_MAP, layer) for layer in self.map_layers)

    @property
    def asks(self) -> bool:
        """Whether the model is asked if its answers are true."""
        return P_TRUE in self.names

    def per_token(self, *, answers: bool) -> tuple[str, ...]:
        """Return the arrays of a row with one value for each token of the answer.

        Args:
            answers: Whether answers are generated.
        """
        if not answers:
            return ()
        statistics = TOKEN_STATISTICS if ENTROPY in self.names else ()
        return (*statistics, *map(confidence_name, self.lens_layers), *self.similarity_names)

    def arrays(self, *, answers: bool) -> tuple[str, ...]:
        """Return the names of the arrays that are stored of each row, besides vectors.

        Args:
            answers: Whether answers are generated.
        """
        samples = (*SAMPLE_TEXTS, *SAMPLE_LISTS) if self.sampling.count else ()
        previous = (PREVIOUS,) if answers and self.attention_layers else ()
        lists = (*self.per_token(answers=answers), *previous, *samples)
        return (*lists, *self.shapes(answers=answers))

    def shapes(self, *, answers: bool = True) -> dict[str, tuple[int, ...]]:
        """Return the arrays of a row that have the same shape in all rows.

        Args:
            answers: Whether answers are generated.
        """
        found: dict[str, tuple[int, ...]] = {}
        for name, (layers, parts) in self.divisions.items():
            shape = (len(layers), self.attention_heads, parts)
            found[f"{name}_prompt"] = shape
            if answers:
                found[f"{name}_answer"] = (len(OF_ANSWER), *shape)
        if answers and self.attention_layers:
            found[PREVIOUS_HEAD] = (len(self.attention_layers),)
        if self.lens_positions and self.lens_layers:
            read_at = len(self.lens_positions), len(self.lens_layers)
            found |= dict.fromkeys((LENS_TOKENS, LENS_PROBS), (*read_at, LENS_TOP))
            found |= dict.fromkeys((LENS_ENTROPY, LENS_RANK, LENS_PROB), read_at)
        if answers and self.asks:
            found |= dict.fromkeys((P_TRUE, P_TRUE_MASS), ())
        if count := self.sampling.count:
            for layer in self.layers(SAMPLES):
                width = self.widths[f"{SAMPLES}/layer_{layer}"]
                found[layer_name(layer)] = (count, width)
        return found
