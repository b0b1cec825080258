"""What a run lacks for detectors is said once, with the option that records it."""

from __future__ import annotations

from pathlib import Path

from vlmscope.detectors import DETECTORS
from vlmscope.detectors.missing import (
    ALMOST_ALL,
    OF_PROMPTS,
    missing_lines,
    recording_line,
    remedy,
)
from vlmscope.detectors.results import LACKS, Unavailable
from vlmscope.positions import REPRESENTATIONS, VISION_ONLY, position_names
from vlmscope.signals import SIGNALS, signal_names

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
        words = remedy(name).split()
        if "--signals" in words:
            assert set(words[1].split(",")) <= set(signal_names(words[1])) <= set(SIGNALS)
        if "--positions" in words:
            assert position_names(words[-3])[0] in REPRESENTATIONS


def test_one_run_has_every_signal_and_the_docs_say_the_same() -> None:
    of = dict(zip(*[iter(ALMOST_ALL.split())] * 2, strict=True))
    signals, positions = signal_names(of["--signals"]), position_names(of["--positions"])
    for name in {name for each in DETECTORS.values() for name in each.requires}:
        words = remedy(name).split()
        if "--signals" not in words:
            continue
        assert set(signal_names(words[1])) <= set(signals), name
        if "--positions" in words:
            assert set(position_names(words[-3])) <= set(positions), name
    page = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text("utf-8")
    assert ALMOST_ALL in " ".join(page.replace("\\\n", " ").split())


def test_one_missing_signal_needs_no_further_line() -> None:
    one, two = (missing_lines(lacking(*names)) for names in (["svar"], ["svar", "p_true"]))
    assert not recording_line(one)
    assert recording_line(two).endswith(ALMOST_ALL)


def test_a_line_for_each_missing_thing() -> None:
    given = lacking("saplma_linear", "halp_image_mean_linear", "svar", "rauq", "glsim", "svar")
    assert missing_lines([*given, Unavailable("x", "X", "has no value for 3 of 4 rows")]) == [
        "the run has no last_answer_token_representation (add last_answer_token to --positions): "
        f"{DETECTORS['saplma_linear'].title}",
        "the run has no image_mean_representation (add image_mean to --positions): "
        f"{DETECTORS['halp_image_mean_linear'].title}",
        "the run has no signals/attention_answer, signals/attention_previous (add attention to "
        f"--signals): {DETECTORS['svar'].title}; {DETECTORS['rauq'].title}",
        "the run has no answer_logprobs, column finish_reason (extract with answers, "
        f"--max-new-tokens above 0): {DETECTORS['rauq'].title}; GLSim",
        "the run has no signals/similarity/last_prompt_token (add similarity to --signals): GLSim",
        "the run has no signals/similarity/image_lens_top (add similarity,lens to --signals): "
        "GLSim",
        "has no value for 3 of 4 rows: X",
    ]


def test_columns_are_told_apart() -> None:
    first, *rest = missing_lines(lacking("category", "ccs_last_prompt_token", "answer_length"))
    assert first.startswith("the run has no column category (add the column category to the table)")
    assert [line.partition(" (")[0] for line in rest] == [
        "the run has no query_token_representation",
        "the run has no column contrast_pair",
        "the run has no column contrast_answer",
        "the run has no column num_answer_tokens",
    ]
