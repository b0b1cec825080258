"""Sampled answers (``--samples``): how they are drawn, what they are, and how they are stored.

Each token is drawn with its own random number, which depends on the seed, the question's id, the
number of the sample and the number of the token, and on nothing else. So neither the batch, nor the
order of the rows, nor a resumed run, nor the number of ranks changes what is drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlmscope.arguments import whole_number
from vlmscope.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLES = "samples"
"""Name of the signal, and the beginning of the names of its arrays."""

DEFAULT_TEMPERATURE = 1.0
"""Temperature of the samples: 1 for the distribution of the model itself."""

TEMPERATURES = (0.001, 1000.0)
"""Smallest and largest temperature. At 0 all samples would be the greedy answer."""

TEXTS = f"{SAMPLES}/texts"
FINISH_REASONS = f"{SAMPLES}/finish_reasons"
TOKEN_IDS = f"{SAMPLES}/token_ids"
LOGPROBS = f"{SAMPLES}/logprobs"
LENGTHS = f"{SAMPLES}/lengths"
LAST_TOKEN = f"{SAMPLES}/last_token"

SAMPLE_TEXTS = (TEXTS, FINISH_REASONS)
"""Arrays of a row that are ``[samples]`` texts."""

SAMPLE_LISTS = (TOKEN_IDS, LOGPROBS, LENGTHS)
"""Arrays of a row that are flat: the tokens of all samples, one sample after the other, their
log-probabilities, and the number of tokens of each sample."""

SAMPLE_TYPES = {TEXTS: "O", FINISH_REASONS: "O", TOKEN_IDS: "int64", LENGTHS: "int64"}
"""The types of the arrays that are not float32."""

RANDOM_BITS = 30
"""Number of random bits that a token is drawn with."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled."""

    count: int = 0
    """Samples of each question, besides the greedy answer."""
    temperature: float = DEFAULT_TEMPERATURE
    """What the logits are divided by."""
    seed: int = 0
    """Seed of the random numbers."""

    @property
    def answers(self) -> int:
        """Number of answers of each question: the greedy one and the samples."""
        return 1 + self.count


@dataclass(frozen=True, slots=True, eq=False)
class SampledAnswer:
    """A sampled answer to a question."""

    text: str
    """Decoded, without special tokens."""
    token_ids: NDArray[np.int64]
    """``[T]``, including the end-of-turn token if one was drawn."""
    logprobs: NDArray[np.float32]
    """``[T]``, natural logarithm, under the unprocessed logits at temperature 1."""
    finish_reason: Literal["stop", "length"]
    """Whether the model ended its turn or reached the limit."""
    states: Mapping[int, NDArray[np.float32]]
    """Decoder layer → hidden state of the last token before the end of turn; NaN if there is none.
    """

    def __repr__(self) -> str:
        return (
            f"SampledAnswer({self.text!r}, {len(self.token_ids)} tokens, log-probability "
            f"{float(self.logprobs.sum()):.3g}, {self.finish_reason})"
        )


def checked_sampling(samples: Any, temperature: Any, seed: Any) -> Sampling:
    """Return how answers are sampled.

    Args:
        samples: Samples of each question.
        temperature: What the logits are divided by.
        seed: Seed of the random numbers.

    Raises:
        InputError: A value is invalid, or a temperature or seed is given without samples.

    >>> checked_sampling(3, 1, 0)
    Sampling(count=3, temperature=1.0, seed=0)
    """
    count = whole_number("--samples", samples, least=0)
    number = whole_number("--seed", seed, least=0)
    least, most = TEMPERATURES
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise InputError(f"--temperature {temperature!r}: expected a number")
    if not (math.isfinite(temperature) and least <= temperature <= most):
        raise InputError(
            f"--temperature {temperature}: give {least} to {most:.0f}; the greedy answer, which 0 "
            "would select, is recorded in any case"
        )
    found = Sampling(count, float(temperature), number)
    if not count and found != Sampling():
        name = "--seed" if number else "--temperature"
        raise InputError(f"{name} {number or temperature}: no answers are sampled; add --samples")
    return found


def random_integers(seed: int, id_: str, sample: int, count: int) -> NDArray[np.int64]:
    """Return the random numbers that the tokens of one sample are drawn with.

    They are the output of Philox, a generator that numpy keeps unchanged, whose key is a SHA-256.

    Args:
        seed: The seed.
        id_: The question's id.
        sample: Number of the sample, from 0.
        count: How many tokens.

    Returns:
        ``[count]``, each from 0 to ``2 ** RANDOM_BITS - 1``.

    >>> numbers = random_integers(0, "q1", 2, 4)
    >>> bool((random_integers(0, "q1", 2, 3) == numbers[:3]).all())
    True
    """
    import numpy as np

    name = f"{seed}\0{sample}\0{id_}".encode("utf-8", "surrogatepass")
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(count)
    return (words >> np.uint64(64 - RANDOM_BITS)).astype(np.int64)


def layer_name(layer: int) -> str:
    """Return the name of the array of the last tokens' states at a layer.

    >>> layer_name(20)
    'samples/last_token/layer_20'
    """
    return f"{LAST_TOKEN}/layer_{layer}"


def is_of_samples(name: str) -> bool:
    """Return whether an array of a signal belongs to the samples, judging by its name.

    >>> is_of_samples("samples/texts"), is_of_samples("entropy")
    (True, False)
    """
    return name.partition("/")[0] == SAMPLES


def arrays_of(samples: Sequence[SampledAnswer]) -> dict[str, NDArray[Any]]:
    """Return the samples of a question as arrays of a signal, by name: see ``SAMPLE_LISTS``."""
    import numpy as np

    if not samples:
        return {}
    return {
        TEXTS: np.array([sample.text for sample in samples], object),
        FINISH_REASONS: np.array([sample.finish_reason for sample in samples], object),
        TOKEN_IDS: np.concatenate([sample.token_ids for sample in samples]),
        LOGPROBS: np.concatenate([sample.logprobs for sample in samples]),
        LENGTHS: np.array([len(sample.token_ids) for sample in samples], np.int64),
        **{
            layer_name(layer): np.stack([sample.states[layer] for sample in samples])
            for layer in samples[0].states
        },
    }


def sample_arrays_match(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether arrays of a row that belong to samples are of the same number of samples."""
    found = {name: array for name, array in arrays.items() if is_of_samples(name)}
    if not found:
        return True
    if not {*SAMPLE_TEXTS, *SAMPLE_LISTS} <= found.keys():
        return False
    lengths = found[LENGTHS]
    flat = {name: len(found.pop(name)) for name in (TOKEN_IDS, LOGPROBS)}
    return (
        bool((lengths >= 0).all())
        and all(length == lengths.sum() for length in flat.values())
        and all(len(array) == len(lengths) for array in found.values())
    )


def samples_in(arrays: Mapping[str, NDArray[Any]]) -> tuple[SampledAnswer, ...]:
    """Return the samples of a question from its arrays: the inverse of ``arrays_of``."""
    if LENGTHS not in arrays:
        return ()
    prefix = f"{LAST_TOKEN}/layer_"
    states = {
        int(name.removeprefix(prefix)): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
    found, start = [], 0
    for number, length in enumerate(arrays[LENGTHS].tolist()):
        tokens = slice(start, start + length)
        found.append(
            SampledAnswer(
                text=str(arrays[TEXTS][number]),
                token_ids=arrays[TOKEN_IDS][tokens],
                logprobs=arrays[LOGPROBS][tokens],
                finish_reason=arrays[FINISH_REASONS][number],
                states={layer: values[number] for layer, values in states.items()},
            )
        )
        start += length
    return tuple(found)
