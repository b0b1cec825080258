"""Yes or no: what real answers say, and what the keyword rules of the research took them for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmscope.schema import Answered, Score
from vlmscope.score import YesNo, read_stance, yes_no_truth

STANCES = [
    # as models say it
    ("Yes, there is a cup.", "yes"),
    ("Yes.", "yes"),
    ("yes", "yes"),
    ("YES", "yes"),
    ("**Yes**", "yes"),
    ("Yes there is", "yes"),
    ("Yeah, I can see one.", "yes"),
    ("Yes - it is lit.", "yes"),
    ("The answer is yes.", "yes"),
    ("The correct answer to the question is: Yes", "yes"),
    ("Based on the image, yes.", "yes"),
    ("Is there a cat? Yes.", "yes"),
    ("It is.", "yes"),
    ("They do.", "yes"),
    ("I think so.", "yes"),
    ("True.", "yes"),
    ("Yes, the man is wearing a hat, not a helmet.", "yes"),
    ("Yes, it appears to be snowing.", "yes"),
    ("No", "no"),
    ("no.", "no"),
    ("No, there is no kettle.", "no"),
    ("No, I cannot see a plate.", "no"),
    ("No, it is in the left half.", "no"),
    ("No it isn't", "no"),
    ("No, the cup is red.", "no"),
    ("Nope.", "no"),
    ("Absolutely not!", "no"),
    ("Not really.", "no"),
    ("Not at all, it's a dog.", "no"),
    ("The answer is no.", "no"),
    ("Assistant: No.", "no"),
    ("Incorrect, the dog is brown.", "no"),
    ("False", "no"),
    # negated without a no
    ("There is no cat in the picture.", "no"),
    ("There isn't any cat.", "no"),
    ("There's no cat here", "no"),
    ("I don't see any cats.", "no"),
    ("I can’t see a cat", "no"),
    ("It isn't.", "no"),
    ("It doesnt look dirty", "no"),
    ("The image does not appear to be lit by a full moon. The lighting is soft.", "no"),
    ("The picture shows no cat.", "no"),
    ("No cat is visible.", "no"),
    ("In the picture, no cat is visible.", "no"),
    ("Based on the image, no cat is visible.", "no"),
    ("Nothing suggests that the floor is dirty.", "no"),
    ("None of them are.", "no"),
    ("Nobody is wearing a hat.", "no"),
    ("I don't think so.", "no"),
    # hedged or contradictory
    ("Yes, but actually no", "unclear"),
    ("Yes and no.", "unclear"),
    ("Yes.\n\nNo, wait.", "unclear"),
    ("No. Actually, yes.", "unclear"),
    ("Yes, there is no cat.", "unclear"),
    ("Yes, it is not.", "unclear"),
    ("Yes, possibly.", "unclear"),
    ("No, I'm not sure.", "unclear"),
    ("No, it is not possible to tell.", "unclear"),
    ("It might be.", "unclear"),
    ("It may be a cat.", "unclear"),
    ("Possibly.", "unclear"),
    ("Probably not.", "unclear"),
    ("Probably.", "unclear"),
    ("Maybe there isn't.", "unclear"),
    ("I cannot tell.", "unclear"),
    ("Cannot be determined.", "unclear"),
    ("It is hard to say.", "unclear"),
    ("It's unclear.", "unclear"),
    ("I'm not entirely sure.", "unclear"),
    ("Unknown", "unclear"),
    ("The image does not say whether it is lit.", "unclear"),
    ("It depends.", "unclear"),
    ("Nothing suggests that it is not dirty.", "unclear"),
    # no side at all
    ("The floor appears to be clean.", None),
    ("The snow is melting now.", None),
    ("I know a knot when I see another.", None),
    ("A notable northern casino.", None),
    ("Yesterday's eyes.", None),
    ("No doubt, a fine day.", None),
    ("No. 5 is on the shirt.", None),
    ("Certainly! The image shows a cat.", None),
    ("It is not only a cat but a whole family.", None),
    ("The man who is not wearing a hat is a chef.", None),
    ("Please answer yes or no.", None),
    ("Red.", None),
    ("", None),
    ("...", None),
]


@pytest.mark.parametrize(("answer", "side"), STANCES)
def test_the_side_of_an_answer(answer: str, side: str | None) -> None:
    stance = read_stance(answer)
    assert (stance.side if stance else None) == side, stance
    assert stance is None or stance.evidence


@pytest.mark.parametrize(
    ("target", "side"),
    [
        ("Yes", "yes"), ("yes.", "yes"), ("y, e, s", "yes"), ("Y, E, S", "yes"), ("True", "yes"),
        ("Yes; The forest is lit by a full moon", "yes"), ("Yes, there is a cup.", "yes"),
        ("['yes', 'yes']", "yes"), ("no.", "no"), ("n, o", "no"), ("False", "no"),
        ("No; The forest isn't brightened by full moonlight", "no"),
        ("Yes; No", None), ("", None), ("nan", None), ("1", None), ("0", None), ("none", None),
        ("red", None), ("now", None), ("No kettle is there.", None), ("Not visible", None),
        ("There is no kettle in the picture.", None), ("yes or no", None),
    ],
)  # fmt: skip
def test_the_side_of_a_truth(target: str, side: str | None) -> None:
    assert yes_no_truth(target) == side


def score(question: str, answer: str | None, target: str) -> Score:
    [found] = YesNo()([Answered("q", question, answer, target)])
    return found


@pytest.mark.parametrize(
    ("question", "answer", "target", "outcome", "why"),
    [
        ("Is there a cup?", "Yes, there is a cup.", "Yes", "faithful", "yes"),
        ("Is there a cup?", "No, there is no cup.", "y, e, s", "hallucinated", "truth yes"),
        ("Is there a cup?", "Yes.", "n, o", "hallucinated", "truth no"),
        # what the research's rules labelled wrongly
        # the opposite of what nobody named, and an echo of the question
        ("Is it dirty?", "The floor appears to be clean", "No", "unscorable", "takes no side"),
        ("Is it snowing?", "It is snowing now.", "No", "hallucinated", "snowing now"),
        ("Is it lit by a full moon?", "It is not lit by a full moon.", "No; It isn't", "faithful",
         "is not"),
        # a negation counts only for what was asked
        ("Is the floor clean?", "The floor is not dirty.", "Yes", "unscorable", "not asked"),
        ("Is the floor clean?", "There is no dirt on the floor.", "Yes", "unscorable", "not asked"),
        ("Is there a dog?", "Nobody is in the picture.", "Yes", "unscorable", "not asked"),
        ("Is the cat on the table?", "It is not under the table.", "Yes", "unscorable",
         "not asked"),
        ("Isn't the floor clean?", "The floor is not clean.", "Yes", "unscorable", "negated"),
        ("Are there any cups?", "I don't see any cups.", "No", "faithful", "do not"),
        ("Is there a butterfly?", "There are no butterflies.", "Yes", "hallucinated", "no"),
        # no truth, no answer
        ("Is it red?", "Yes", "red", "unscorable", "truth is not yes or no"),
        ("Is it red?", "Yes", "", "unscorable", "no ground truth"),
        ("Is it red?", "", "Yes", "unscorable", "no answer"),
        ("Is it red?", None, "Yes", "unscorable", "no answer"),
        ("Is it red?", "Possibly.", "Yes", "unscorable", "hedges"),
    ],
)  # fmt: skip
def test_yes_no_answers(
    question: str, answer: str | None, target: str, outcome: str, why: str
) -> None:
    found = score(question, answer, target)
    assert found.outcome == outcome, found
    assert why in found.evidence
    assert found.scorer == "yesno"


words = st.sampled_from(
    ["yes", "no", "not", ",", ".", "isn't", "there", "is", "a cup", "I", "can't see", "but",
     "maybe", "actually", "the answer is:", "now"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(words).map(" ".join)))
def test_any_text_is_read(text: str) -> None:
    stance = read_stance(text)
    assert stance is None or stance.evidence
    yes_no_truth(text)
