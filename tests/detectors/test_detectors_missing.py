"""What a run lacks for detectors is listed once, as the options that record it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from vlmscope.detectors import DETECTORS
from vlmscope.detectors.missing import (
    ALL_POSITIONS,
    ALL_SIGNALS,
    ANSWERS,
    OF_PROMPTS,
    is_of_images,
    missing_by_remedy,
    options_of_all,
    remedy,
)
from vlmscope.detectors.results import LACKS, Unavailable
from vlmscope.positions import REPRESENTATIONS, VISION_ONLY, position_names
from vlmscope.signals import signal_names

NONE = (VISION_ONLY, *(f"column {name}" for name in OF_PROMPTS))


def lacking(*names: str) -> list[Unavailable]:
    return [
        Unavailable(name, DETECTORS[name].title, f"{LACKS}{', '.join(DETECTORS[name].requires)}")
        for name in names
    ]


def test_every_requirement_of_a_detector_has_a_remedy() -> None:
    """The options and what they are given exist."""
    every = {name for each in DETECTORS.values() for name in each.requires}
    assert {name for name in every if not remedy(name)} == set(NONE) & every
    for name in every - set(NONE):
        given = options_in(remedy(name))
        if "--signals" in given:
            assert set(given["--signals"].split(",")) <= set(signal_names(given["--signals"]))
        if "--positions" in given:
            assert position_names(given["--positions"])[0] in REPRESENTATIONS


def test_one_run_has_everything_and_the_docs_say_the_same() -> None:
    options = options_of_all(missing_by_remedy(lacking(*DETECTORS)))
    every = options_in(options)
    signals, positions = signal_names(every["--signals"]), position_names(every["--positions"])
    for name in {name for each in DETECTORS.values() for name in each.requires}:
        given = options_in(remedy(name))
        if "--signals" in given:
            assert set(signal_names(given["--signals"])) <= set(signals), name
        if "--positions" in given:
            assert set(position_names(given["--positions"])) <= set(positions), name
    page = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text("utf-8")
    few = options_of_all(missing_by_remedy(lacking("svar", "p_true")))
    assert few == f"{ALL_SIGNALS} --positions {','.join(ALL_POSITIONS)}"
    assert few in " ".join(page.replace("\\\n", " ").split())


def options_in(text: str) -> dict[str, str]:
    words = text.split()
    return {word: value for word, value in pairwise(words) if word.startswith("--")}


def test_one_missing_signal_needs_no_further_line() -> None:
    assert not options_of_all(missing_by_remedy(lacking("svar")))


def test_what_is_missing_is_listed_once_with_every_detector_that_needs_it() -> None:
    given = lacking("saplma_linear", "halp_image_mean_linear", "svar", "rauq", "glsim", "svar")
    found = missing_by_remedy([*given, Unavailable("x", "X", "has no value for 3 of 4 rows")])
    assert found == {
        "--positions last_answer_token": [DETECTORS["saplma_linear"].title],
        "--positions image_mean": [DETECTORS["halp_image_mean_linear"].title],
        "--signals attention": [DETECTORS["svar"].title, DETECTORS["rauq"].title],
        "answers (--max-new-tokens above 0)": [DETECTORS["rauq"].title, "GLSim"],
        "--signals similarity": ["GLSim"],
        "--signals similarity,lens": ["GLSim"],
        "questions about an image": [DETECTORS["svar"].title],
        "has no value for 3 of 4 rows": ["X"],
    }


def test_a_run_with_answers_but_no_entropy_is_of_an_earlier_version() -> None:
    [what] = missing_by_remedy(lacking("mean_entropy"))
    assert "entropy" in what
    assert "earlier version" in what
    without_answers = missing_by_remedy(lacking("mean_entropy", "rauq"))
    assert ANSWERS in without_answers
    assert what not in without_answers


def test_what_images_give_is_told_from_the_rest() -> None:
    every = {name for each in DETECTORS.values() for name in each.requires}
    assert {name for name in every if is_of_images(name)} == {
        "vision_only_representation", "vision_token_representation",
        "first_image_token_representation", "image_mean_representation",
        "signals/internal_confidence", "signals/similarity/image_lens_top",
        "signals/similarity/image_max", "image",
    }  # fmt: skip
    options = options_of_all(["--signals p_true", "--positions image_mean"], images=False)
    assert options == f"{ALL_SIGNALS} --positions last_prompt_token,last_answer_token"


def test_columns_are_told_apart() -> None:
    assert list(missing_by_remedy(lacking("category", "ccs_last_prompt_token"))) == [
        "a column category in the table",
        "--positions last_prompt_token",
        "a column contrast_pair in the table",
        "a column contrast_answer in the table",
    ]
