"""The data types that are passed between the stages: plain and frozen.

A ``Sample`` is read from a dataset, a ``CaptureSpec`` defines what to record, a ``Capture`` is what
was recorded of one sample, a ``Failure`` is the record of a row that failed. No stage keeps any of
them: they are passed through generators, so memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, get_args

from vlmscope.arguments import Layers, check_fields, layers_text, whole_number
from vlmscope.errors import InputError, shortened
from vlmscope.image_maps import attention_maps
from vlmscope.positions import (
    ANSWER_POSITIONS,
    DEFAULT_POSITIONS,
    Positions,
    position_names,
    representation,
)
from vlmscope.sampling import (
    DEFAULT_TEMPERATURE,
    SAMPLES,
    SampledAnswer,
    Sampling,
    checked_sampling,
    samples_in,
)
from vlmscope.shown import dataclass_line, shown_image
from vlmscope.signals import DEFAULT_SIGNALS, NEED_ANSWER, Signals, signal_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    ImageLike = str | PathLike[str] | bytes | Image
    GivenImage = ImageLike | NDArray[np.uint8]

FORMAT_VERSION = 1
"""Version of the on-disk format (docs/format.md). Written to the manifest and to every shard."""

DEFAULT_LAYERS = "0,n/4,n/2,3n/4,n-1"
"""The specification's layers. 40 decoder layers give 0, 10, 20, 30, 39."""

DEFAULT_MAX_NEW_TOKENS = 200
"""The specification's limit on the answer."""

LONGEST_ID = 16_000
"""Maximum length of a question id in bytes of UTF-8. HDF5 opens no link with a name of more than
about 65,000 bytes, and escaped characters take three times the space."""

TOP_FIRST_TOKENS = 20
"""Number of most likely first tokens that are recorded from the prefill's logits."""

VisionPooling = Literal["all", "valid"]
"""``all``: mean over every position of the encoder, padding tiles included, as specified.
``valid``: without padding tiles."""

Compat = Literal["", "halp"]
"""``halp``: read layers and positions as the HALP research code did (``model/halp.py``)."""

LayerStates = Literal["hidden_states[k+1]", "block output", "hidden_states[k]"]
"""Which state ``layer_k`` is: ``hidden_states[k+1]`` of transformers, the last one after the final
norm (the default); the output of block k, the last one before the norm; or the input of block k."""

Outcome = Literal["hallucinated", "faithful", "unscorable", "unlabelled"]
"""Label of an answer. ``unscorable``: the scorer read it and could not decide; ``unlabelled``: the
label file or column that was read has no label for it."""

ErrorKind = Literal["affirms", "denies", "other"]
"""How a hallucinated answer to a yes/no question is wrong: it affirms something false (a false
positive), denies something true (a false negative), or takes no readable side."""

NOT_IN_FILE = "not in the label file"
"""Reason for a row that is not in the label file."""

Progress = Callable[[str], None]
"""Callback that is given a phrase describing the current work, for example ``baselines``."""

FinishReason = Literal["stop", "length", "prefill"]
"""Why a row ended: an end-of-turn token, the token limit, or no answer was requested."""


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """Columns of the table for each field. ``None``: find it by the usual names.

    By default the names of the specification and of the HALP research code are accepted; every
    column that is not assigned becomes metadata.
    """

    id: str | None = None
    """Column of the question id (``question_id``, ``id``); if several are given, with commas, their
    values are joined by ``_``. A number is the column at that position, counted from 1."""
    image: str | None = None
    """Column of the image (``image_id``, ``image_name``, ``image``); several, with commas, contain
    one image each."""
    question: str | None = None
    """Column of the question (``question``, or POPE's ``text``)."""
    target: str | None = None
    """Column of the ground truth (``ground_truth_answer``, ``gt_answer``, ``answer``, or POPE's
    ``label``; the first one that is there)."""
    category: str | None = None
    """Column of the kind of question, which is stored as the metadata ``category``."""
    records: str | None = None
    """Key of a JSON document that contains the rows."""
    image_pattern: str | None = None
    """Path of the image with columns in braces: ``COCO_val2014_{image_id:012d}.jpg``."""
    question_template: str | None = None
    """Question with columns in braces: ``{question} {options}``."""
    number_rows: bool = False
    """Whether the ids are the numbers of the rows: ``row_1``, ``row_2`` and so on."""

    def __post_init__(self) -> None:
        """Raise an error for a field of another type."""
        names = [each.name for each in fields(self) if each.name != "number_rows"]
        check_fields(self, str | None, "text; several columns with commas", *names)
        check_fields(self, bool, "True or False", "number_rows")


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image."""

    id: str
    """The specification's question id. Unique in a run."""
    image: ImageLike | list[ImageLike] | tuple[ImageLike, ...] | None
    """Path of the image file, its bytes, or a PIL image. For a question about several images, a
    list in the order in which the prompt names them; for a question about none, None or empty.
    ``capture`` and ``RiskScorer`` take pixels too: see ``engine.open_image``."""
    question: str
    """The question, passed to the model verbatim."""
    target: str = ""
    """The ground-truth answer as text; empty if there is none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Every other column of the table: JSON-serialisable values."""
    image_id: str = ""
    """The image's name as the table gives it (the specification's ``image_id``)."""
    origin: str = ""
    """Location of the row, for messages: ``questions.csv line 41``."""

    def __post_init__(self) -> None:
        """Raise an error for a field of another type; of image and question, the row fails."""
        check_fields(self, str, "text", "id", "target", "image_id", "origin")
        check_fields(self, dict | Mapping, "a dictionary", "metadata")

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """The images, in the order in which the prompt names them; empty if there are none.

        >>> Sample("q", "a.png", "?").images, Sample("q", ["a", "b"], "?").images
        (('a.png',), ('a', 'b'))
        >>> Sample("q", None, "?").images
        ()
        """
        if self.image is None:
            return ()
        if isinstance(self.image, list | tuple):
            return tuple(self.image)
        return (self.image,)

    def __hash__(self) -> int:
        """Return a hash that equal samples share; images and metadata may not be hashable."""
        return hash((self.id, self.question, self.target, self.image_id))

    def __repr__(self) -> str:
        return dataclass_line(self, image=shown_image(self.image))


@dataclass(frozen=True, slots=True)
class CaptureSpec:
    """What to record. Plain data, which is written to the manifest unchanged.

    >>> CaptureSpec(layers=[0, 10], positions="last_prompt_token")
    CaptureSpec(layers='0,10', positions=('last_prompt_token',), vision_pooling='all', \
max_new_tokens=200, compat='', signals=('entropy',), samples=0, temperature=1.0, seed=0)
    """

    layers: str = DEFAULT_LAYERS
    """Decoder layers, resolved against the model by ``selection.resolve_layers``. A number, or
    several numbers and terms, are converted to such a text."""
    positions: tuple[str, ...] = DEFAULT_POSITIONS
    """Token positions; names from ``positions.REPRESENTATIONS``, or of the HDF5 groups there. One,
    several, or a comma-separated text; they are converted to a tuple of positions."""
    vision_pooling: VisionPooling = "all"
    """How the vision encoder's output becomes one vector."""
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    """Longest answer in tokens; 0 stops after the prefill and records no answer."""
    compat: Compat = ""
    """The method whose layers and positions are used; empty for vlmscope's own. Whether a model
    supports it is checked by ``model.halp.halp_model_for``."""
    signals: tuple[str, ...] = DEFAULT_SIGNALS
    """What else to record; names from ``signals.SIGNALS`` or ``signals.PRESETS``. One, several, or
    a comma-separated text; they are converted to a tuple of signals, ``entropy`` always first."""
    samples: int = 0
    """Sampled answers of each question, besides the greedy one; more than 0 adds ``samples`` to the
    signals."""
    temperature: float = DEFAULT_TEMPERATURE
    """Temperature of the samples."""
    seed: int = 0
    """Seed of the samples."""

    if TYPE_CHECKING:  # the constructor accepts more types than are stored

        def __init__(
            self,
            layers: Layers = DEFAULT_LAYERS,
            positions: Positions = DEFAULT_POSITIONS,
            vision_pooling: VisionPooling = "all",
            max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
            compat: Compat = "",
            signals: Signals = DEFAULT_SIGNALS,
            samples: int = 0,
            temperature: float = DEFAULT_TEMPERATURE,
            seed: int = 0,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Raise an error for invalid values; layers are checked when the model is known."""
        object.__setattr__(self, "layers", layers_text(self.layers))
        object.__setattr__(self, "positions", position_names(self.positions))
        sampling = checked_sampling(self.samples, self.temperature, self.seed)
        more = (SAMPLES,) if sampling.count else ()
        object.__setattr__(self, "signals", signal_names(self.signals, more))
        object.__setattr__(self, "samples", sampling.count)
        object.__setattr__(self, "temperature", sampling.temperature)
        object.__setattr__(self, "seed", sampling.seed)
        object.__setattr__(
            self, "max_new_tokens", whole_number("--max-new-tokens", self.max_new_tokens)
        )
        if self.vision_pooling not in get_args(VisionPooling):
            raise InputError(f"--vision-pooling {self.vision_pooling!r}: choose from all, valid")
        if self.max_new_tokens < 0:
            raise InputError(f"--max-new-tokens {self.max_new_tokens}: give 0 or more")
        answer = [name for name in self.positions if name in ANSWER_POSITIONS]
        if answer and not self.max_new_tokens:
            raise InputError(f"--positions {answer[0]}: needs an answer, --max-new-tokens above 0")
        if self.samples and not self.max_new_tokens:
            raise InputError(f"--samples {self.samples}: needs --max-new-tokens above 0")
        if SAMPLES in self.signals and not self.samples:
            raise InputError(f"--signals {SAMPLES}: give the number of answers with --samples")
        if not self.max_new_tokens and (found := set(NEED_ANSWER).intersection(self.signals)):
            raise InputError(f"--signals {min(found)}: needs --max-new-tokens above 0")
        self._check_compat()

    def _check_compat(self) -> None:
        """Raise an error for options that have no counterpart in the HALP research code."""
        if self.compat not in get_args(Compat):
            raise InputError(f"--compat {self.compat!r}: give halp, or omit it")
        if not self.compat:
            return
        if others := [name for name in self.positions if name not in DEFAULT_POSITIONS]:
            raise InputError(
                f"--positions {others[0]}: with --compat {self.compat} only "
                f"{' and '.join(DEFAULT_POSITIONS)}, as HALP stored no other; "
                "omit it, or omit --compat"
            )
        if self.vision_pooling != "all":
            raise InputError(
                f"--vision-pooling {self.vision_pooling}: with --compat {self.compat} only all, as "
                "HALP did not exclude padding; omit one of them"
            )
        if others := [name for name in self.signals if name not in DEFAULT_SIGNALS]:
            sampled = others[0] == SAMPLES
            option = f"--samples {self.samples}" if sampled else f"--signals {others[0]}"
            raise InputError(
                f"{option}: with --compat {self.compat} none, as HALP stored no other "
                "data; omit it, or omit --compat"
            )

    @property
    def sampling(self) -> Sampling:
        """How answers are sampled."""
        return Sampling(self.samples, self.temperature, self.seed)

    @property
    def answers(self) -> int:
        """Number of answers of each question: the greedy one and the samples; 0 for none."""
        return self.sampling.answers if self.max_new_tokens else 0

    @property
    def prompt_positions(self) -> tuple[str, ...]:
        """The positions in the prompt, without duplicates."""
        return tuple(p for p in dict.fromkeys(self.positions) if p not in ANSWER_POSITIONS)

    @property
    def answer_positions(self) -> tuple[str, ...]:
        """The positions in the answer, without duplicates."""
        return tuple(p for p in dict.fromkeys(self.positions) if p in ANSWER_POSITIONS)


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """The recorded data of one sample from one run through the model."""

    sample: Sample
    """The sample. ``Run[id]`` sets ``image`` to the image's name only."""
    vectors: Mapping[str, NDArray[np.float32]]
    """HDF5 path (``query_token_representation/layer_20``) → float32 vector ``[D]``. A question
    without an image has none of ``positions.IMAGE_REPRESENTATIONS``."""
    boundaries: Mapping[str, int]
    """Position name → index in prompt and answer, without padding; means have no index, and a
    question without an image has none of ``positions.IMAGE_POSITIONS``."""
    num_prompt_tokens: int
    """Length of the prompt in tokens, including image tokens, without padding."""
    image_sha256: str
    """Hash of the decoded RGB pixels and size: equal for equal images, whatever the file name.
    For several images the hashes in order, joined by ``+``; for none, empty."""
    first_token_entropy: float
    """Entropy in nats of the prefill's next-token distribution."""
    first_token_ids: NDArray[np.int64]
    """The ``TOP_FIRST_TOKENS`` most likely first tokens, most likely first."""
    first_token_logprobs: NDArray[np.float32]
    """Their natural-log probabilities under the unprocessed logits."""
    finish_reason: FinishReason
    """Why the row ended."""
    image_dhash: str = ""
    """Perceptual hash of the image, 16 hexadecimal digits: see ``dataset.difference_hash``. For
    several images joined by ``+``, for none empty."""
    image_thumbnail: str = ""
    """A small copy of the image as text, to find near-copies of it: see
    ``dataset.image_thumbnail``. For several images joined by ``+``, for none empty."""
    answer: str | None = None
    """Greedy answer, without the prompt and special tokens. None after a prefill-only run."""
    answer_token_ids: NDArray[np.int64] | None = None
    """Generated token ids ``[T]``, including the end-of-turn token if one was generated."""
    answer_logprobs: NDArray[np.float32] | None = None
    """Natural-log probability ``[T]`` of each of them under the unprocessed logits."""
    signals: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Name → array of the recorded signals, see docs/signals.md. A prompt without an answer has
    none of the answer's."""

    @property
    def samples(self) -> tuple[SampledAnswer, ...]:
        """The sampled answers, in order; empty if none were requested."""
        return samples_in(self.signals)

    def attention_map(
        self, layer: int, of: Literal["prompt", "answer"] = "prompt"
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return the attention to an image, mean over the heads, aligned with the image.

        Args:
            layer: The decoder layer, counted from 0.
            of: The attention of the last prompt token, or the mean of that of the answer's tokens.

        Returns:
            ``[rows, columns]``: the first cell is the top left of the image. What a processor crops
            has no attention. A list for several images, in the order of the row.

        Raises:
            InputError: It was not recorded, or the layout of the image tokens is unknown.
        """
        number = whole_number("layer", layer)
        maps = attention_maps(self.signals, f"question {self.sample.id!r}", number, of)
        return maps[0] if len(maps) == 1 else maps

    def vector(self, position: str, layer: int | None = None) -> NDArray[np.float32]:
        """Return one vector ``[D]``.

        Args:
            position: A position, ``last_prompt_token``, or the name of its HDF5 group; or
                ``vision_only_representation``.
            layer: The decoder layer, counted from 0; None for the vision encoder's output.

        Raises:
            InputError: There is no such vector.
        """
        path = representation(position)
        if layer is not None:
            path += f"/layer_{whole_number('layer', layer)}"
        if path not in self.vectors:
            back = layer is not None and layer < 0
            why = (
                " (a row does not know how many layers its model has: count from 0)" if back else ""
            )
            raise InputError(
                f"question {self.sample.id!r}: no vector {path}{why}, there are "
                f"{', '.join(self.vectors) or 'none'}"
            )
        return self.vectors[path]

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal, arrays by their values."""
        if not isinstance(other, Capture):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((self.sample, self.image_sha256, self.num_prompt_tokens, self.finish_reason))

    def __repr__(self) -> str:
        vectors = "1 vector" if len(self.vectors) == 1 else f"{len(self.vectors)} vectors"
        answer = "no answer" if self.answer is None else f"answer {shortened(self.answer)!r}"
        tokens = "" if self.answer_token_ids is None else f" of {len(self.answer_token_ids)} tokens"
        return (
            f"Capture({shortened(self.sample.id)!r}, {vectors}, {self.num_prompt_tokens} prompt "
            f"tokens, {answer}{tokens}, {self.finish_reason})"
        )


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal; arrays in type, shape and values, NaN equal to NaN."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if hasattr(one, "dtype") or hasattr(other, "dtype"):
        return bool(
            getattr(one, "dtype", None) == getattr(other, "dtype", None)
            and one.shape == other.shape
            and ((one == other) | ((one != one) & (other != other))).all()
        )
    return bool(one == other or (one != one and other != other))


@dataclass(frozen=True, slots=True)
class Failure:
    """The record of a row that could not be captured: one line of ``failures.jsonl``."""

    id: str
    """The question id."""
    stage: str
    """``input``, ``image``, ``prompt``, ``capture``; ``prepare`` or ``model`` if the process, or
    a worker process, was killed with this row, and ``model`` if it took too long."""
    error: str
    """What went wrong and what to do, in one line."""
    attempt: int = 1
    """How many times this row was tried."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with the model's answer and the ground truth: the input of a scorer."""

    id: str
    """The question id."""
    question: str
    """The question, verbatim."""
    answer: str | None
    """The model's answer; None after a prefill-only run."""
    target: str
    """The ground truth from the table; empty if there is none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Every other column of the table."""
    options: tuple[str, ...] = ()
    """The options that the ground truth is one of, if the question does not list them."""
    unreadable: str = ""
    """Why the ground truth cannot be read, as evidence; empty if it can."""

    def __hash__(self) -> int:
        return hash((self.id, self.question, self.answer, self.target))


@dataclass(frozen=True, slots=True)
class Score:
    """A scorer's verdict on one answer."""

    id: str
    """The question id."""
    hallucinated: bool | None
    """True if the answer contradicts the ground truth, False if it is faithful to it, None if the
    scorer cannot decide."""
    scorer: str
    """Name of the scorer that decided."""
    evidence: str
    """What the decision is based on; for an unscorable answer, the reason."""
    labelled: bool = True
    """False if the question is not in a label file, or its cell is empty: there is no label at all,
    not even that the answer is unscorable."""
    error_kind: ErrorKind | None = None
    """For a hallucinated answer to a yes/no question, how it is wrong."""

    @property
    def outcome(self) -> Outcome:
        """The verdict as text."""
        return outcome_of(self.hallucinated, labelled=self.labelled)


def outcome_of(hallucinated: bool | None, *, labelled: bool = True) -> Outcome:
    """Return a label as text.

    >>> outcome_of(True), outcome_of(False), outcome_of(None), outcome_of(None, labelled=False)
    ('hallucinated', 'faithful', 'unscorable', 'unlabelled')
    """
    if hallucinated is None:
        return "unscorable" if labelled else "unlabelled"
    return "hallucinated" if hallucinated else "faithful"


def failure_of(sample: Sample, stage: str, why: str) -> Failure:
    """Return the record of a failed sample; the message begins with the location of its row.

    >>> failure_of(Sample("q1", "x.png", "?", origin="t.csv line 3"), "image", "not found").error
    't.csv line 3: not found'
    """
    return Failure(sample.id, stage, f"{sample.origin}: {why}" if sample.origin else why)
