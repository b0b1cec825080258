"""``Detector``: one published way to detect hallucinations, as data, and the registry's types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlmscope.detectors.methods import Method

Group = Literal["no_model", "answer", "attention", "states", "lens", "samples", "asked"]

GROUPS: tuple[Group, ...] = (
    "no_model", "answer", "attention", "states", "lens", "samples", "asked",
)  # fmt: skip
"""Groups of detectors, by what they read, in the order of every table."""

Known = Literal[
    "before the first token", "with the first token", "after the answer", "after k answers"
]

BEFORE: Known = "before the first token"
WITH_FIRST: Known = "with the first token"
AFTER: Known = "after the answer"
AFTER_SAMPLES: Known = "after k answers"

KNOWN: tuple[Known, ...] = (BEFORE, WITH_FIRST, AFTER, AFTER_SAMPLES)
"""When the score of a detector is known, the earliest first."""

Passes = Literal["no pass", "prefill", "answer", "answer and a prefill", "k answers"]

PASSES: tuple[Passes, ...] = ("no pass", "prefill", "answer", "answer and a prefill", "k answers")
"""What a detector costs, the cheapest first: no pass through the model; the prompt; the prompt and
the answer; another prompt about the answer; and k sampled answers besides the greedy one."""


@dataclass(frozen=True, slots=True)
class Paper:
    """The publication that a detector is from."""

    title: str
    authors: str
    """The first author, ``et al.`` for several."""
    year: int
    """Of ``venue``; without one, of the first version on arXiv."""
    arxiv: str = ""
    """Its number on arXiv; empty if it is not there."""
    venue: str = ""
    """Where it was published; empty if only on arXiv, or if that is not known."""
    doi: str = ""
    """Its DOI, if it is not on arXiv."""

    @property
    def citation(self) -> str:
        """Return authors and year.

        >>> Paper("A title", "Kuhn et al.", 2023, "2302.09664").citation
        'Kuhn et al. 2023'
        """
        return f"{self.authors} {self.year}"

    @property
    def link(self) -> str:
        """Return its address: on arXiv, or that of its DOI.

        >>> Paper("A title", "Kuhn et al.", 2023, "2302.09664").link
        'https://arxiv.org/abs/2302.09664'
        """
        return (
            f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """One way to detect hallucinations.

    Its score or risk is higher where an answer is more likely hallucinated. For a detector that is
    not trained, that direction is the paper's, and never chosen by labels.
    """

    name: str
    """Unique name, as in ``--detectors``."""
    title: str
    """Readable title."""
    group: Group
    """What it reads."""
    paper: Paper | None
    """Where it is from; None for common practice."""
    formula: str
    """The formula in words, as it is computed here."""
    requires: tuple[str, ...]
    """What a run must have: ``signals/entropy``, ``query_token_representation``, ``column
    category``, ``answer_logprobs``, ``image``; a name stands for everything below it."""
    known: Known
    """When it is known."""
    passes: Passes
    """What it costs."""
    pitfalls: str
    """What to keep in mind when reading its results."""
    method: Method
    """How it is computed."""
    adaptation: str = ""
    """What differs from the paper or its public code, and why; empty if nothing does."""

    @property
    def learned(self) -> bool:
        """Whether it is trained on labels."""
        return self.method.learned

    @property
    def is_model_free(self) -> bool:
        """Whether it needs neither the model nor its answer: a baseline for all others."""
        return self.group == "no_model" and self.known == BEFORE
