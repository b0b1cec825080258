"""POPE: "Is there a <object> in the image?", answered in every sentence form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from sheet_forms import IMAGE, OBJECTS, SCENES, SPOTS, Case, Noun, a, capital, chatty, verdict

Wordings = tuple[tuple[str, ...], tuple[str, ...]]
"""Wordings that affirm, wordings that deny."""


_BARE_FORMS = (
    *("{0}", "{1}", "{1}.", "{2}", "{1}!", "**{1}**", "**{1}.**", "Answer: {1}", "A: {1}"),
    *("The answer is {0}.", "The correct answer is: {1}", "**Answer:** {1}", '"{1}"'),
    *("Final answer: {1}.", "\\boxed{{{1}}}", "{1}\n", "Short answer: {0}"),
)


def _bare(word: str, *others: str) -> tuple[str, ...]:
    spelled = (form.format(word, word.capitalize(), word.upper()) for form in _BARE_FORMS)
    return (*(text.replace("{", "{{").replace("}", "}}") for text in spelled), *others)


BARE: Wordings = (
    _bare("yes", "Yes, there is.", "Yeah.", "Yep.", "There is."),
    _bare("no", "No, there is not.", "No, there isn't.", "Nope.", "Not that I can see."),
)


WORD_AND_SENTENCE: Wordings = (
    (
        "Yes, there is {a} in the {image}.",
        "Yes, there's {a} in the {image}.",
        "yes, there is {a} in the {image}",
        "Yes, {a} is visible in the {image}.",
        "Yes, I can see {a} {spot}.",
        "Yes, the {image} shows {a}.",
        "Yes. {A} can be seen {spot}.",
        "Yes, there are {many} in the {image}.",
        "Yes, there are several {many} in the {image}.",
        "Yes, there is one {one} {spot}.",
        "Yes, it is {spot}.",
        "Yes, there is a small {one} {spot}.",
        "Yes - {a} is clearly visible.",
        "**Yes**, there is {a} in the {image}.",
        "Yes, that is correct. There is {a} in the {image}.",
        "Yes\n\nThere is {a} {spot}.",
    ),
    (
        "No, there is no {one} in the {image}.",
        "No, there isn't {a} in the {image}.",
        "no, there is no {one} in the {image}",
        "No, {a} is not visible in the {image}.",
        "No, I cannot see {a} in the {image}.",
        "No, I don't see any {many} in the {image}.",
        "No, the {image} does not show {a}.",
        "No. {A} cannot be seen in the {image}.",
        "No, there are no {many} in the {image}.",
        "No, there are not any {many} visible.",
        "No, the {image} shows {scene}.",
        "No - there is only {scene}.",
        "**No**, there is no {one} in the {image}.",
        "No, that is not correct. There is no {one} in the {image}.",
        "No\n\nThe {image} does not contain {a}.",
    ),
)


STATEMENT: Wordings = (
    (
        "There is {a} in the {image}.",
        "There's {a} in the {image}.",
        "There is {a} {spot}.",
        "There is a small {one} {spot}.",
        "There is one {one} in the {image}.",
        "There are two {many} in the {image}.",
        "There are several {many} in the {image}.",
        "There are some {many} {spot}.",
        "There appears to be {a} in the {image}.",
        "There seems to be {a} {spot}.",
        "I can see {a} in the {image}.",
        "I see {a} {spot}.",
        "You can see {a} {spot}.",
        "The {image} shows {a}.",
        "The {image} features {a} {spot}.",
        "The {image} contains {a}.",
        "The {image} does contain {a}.",
        "The {image} includes {a} and a few other objects.",
        "The {image} depicts {scene}, with {a} {spot}.",
        "{A} is visible in the {image}.",
        "{A} can be seen {spot}.",
        "{A} is present in the {image}.",
        "The {one} is {spot}.",
        "The {one} can be seen {spot}.",
        "Indeed, there is {a} in the {image}.",
        "That is correct, there is {a} in the {image}.",
        "It looks like there is {a} {spot}.",
        "Not only is there {a} in the {image}, there is also {b}.",
        "No doubt, there is {a} in the {image}.",
    ),
    (
        "There is no {one} in the {image}.",
        "There's no {one} in the {image}.",
        "There are no {many} in the {image}.",
        "There is not {a} in the {image}.",
        "There isn't {a} in the {image}.",
        "There isn't any {one} in the {image}.",
        "There aren't any {many} in the {image}.",
        "There is no visible {one} in the {image}.",
        "There is not a single {one} in the {image}.",
        "There is no sign of {a} in the {image}.",
        "There is nothing in the {image} that looks like {a}.",
        "There does not appear to be {a} in the {image}.",
        "There don't seem to be any {many} in the {image}.",
        "I do not see {a} in the {image}.",
        "I don't see any {many} in this {image}.",
        "I cannot see any {one} in the {image}.",
        "I could not find {a} in the {image}.",
        "I was unable to find {a} in the {image}.",
        "I don't think there is {a} in the {image}.",
        "No {one} is visible in the {image}.",
        "No {many} can be seen in the {image}.",
        "{A} is not visible in the {image}.",
        "{A} is not present in the {image}.",
        "{A} is absent from the {image}.",
        "The {image} does not contain {a}.",
        "The {image} doesn't feature any {many}.",
        "The {image} does not include {a}.",
        "The {image} contains no {many}.",
        "The {image} shows no {one}.",
        "The {image} lacks {a}.",
        "The {image} is devoid of {many}.",
        "Unfortunately, there is no {one} in the {image}.",
        "It doesn't look like there is {a} in the {image}.",
        "It does not appear that there is {a} in the {image}.",
        "None of the objects in the {image} is {a}.",
    ),
)


OTHER_OBJECT: Wordings = (
    (
        "There is {a} in the {image}, but no {other}.",
        "Yes, there is {a} in the {image}. There is no {other}, however.",
        "There is {a} next to {b} in the {image}.",
        "The {image} shows {b} and {a}.",
        "{B} and {a} are visible in the {image}.",
        "It is {a}, not {b}, that can be seen {spot}.",
        "While there is no {other} in the {image}, there is {a}.",
        "The {image} does not contain {b}, but it does contain {a}.",
    ),
    (
        "There is {b} in the {image}, but no {one}.",
        "No, there is no {one} in the {image}. There is {b}, however.",
        "There is {b} in the {image}, but there is no {one}.",
        "The {image} shows {b}, not {a}.",
        "{B} is visible in the {image}, but {a} is not.",
        "It is {b}, not {a}, that can be seen {spot}.",
        "While there is {b} in the {image}, there is no {one}.",
        "The {image} contains neither {a} nor {b}.",
        "The object {spot} is {b}, not {a}.",
    ),
)


NEGATION_ELSEWHERE: Wordings = (
    (
        "Yes, there is {a} in the {image}. It is not the main subject.",
        "There is {a} {spot}. No people are close to it.",
        "There is {a} in the {image}, but it is not very large.",
        "Yes, there is {a}, although it is not in the center.",
        "No people are visible, but there is {a} {spot}.",
        "Yes. The {one} is {spot}. There is no text in the {image}.",
        "There is {a} {spot}, and it is not damaged.",
    ),
    (
        "No, but there is {b} in the {image}.",
        "No, there are only {others} in the {image}.",
        "No. The {image} shows {scene}, and {b} is visible {spot}.",
        "There is no {one}. There are several {others}, and yes, they are easy to see.",
        "Although {b} is present {spot}, there is no {one}.",
        "There is {b} {spot}. However, there is no {one} in the {image}.",
        "No, what can be seen {spot} is {b}.",
    ),
)


MARKDOWN: Wordings = (
    (
        "There **is** {a} in the {image}.",
        "There is **{a}** in the {image}.",
        "**There is {a} in the {image}.**",
        "**Answer:** Yes, there is {a} in the {image}.",
        "### Answer\nYes",
        "* {A} is visible {spot}.",
        "1. {A} is visible {spot}.\n2. The rest of the {image} shows {scene}.",
        "The {image} shows *{a}* {spot}.",
        "**Yes**\n\n**Explanation:** The {image} shows {a} {spot}.",
    ),
    (
        "There is **no** {one} in the {image}.",
        "There is **not** {a} in the {image}.",
        "**There is no {one} in the {image}.**",
        "**Answer:** No, there is no {one} in the {image}.",
        "### Answer\nNo",
        "* No {one} is visible.",
        "1. The {image} shows {scene}.\n2. No {one} is visible.",
        "The {image} does *not* contain {a}.",
        "**No**\n\n**Explanation:** The {image} shows {scene}.",
    ),
)


SCENE_FIRST: Wordings = (
    (
        "The {image} shows {scene}. There is also {a} {spot}.",
        "The {image} depicts {scene}. {A} can be seen {spot}.",
        "This is {scene}. Yes, there is {a} in the {image}.",
        "The {image} shows {scene}. Therefore, the answer is yes.",
        "The {image} shows {scene}. In addition, {a} is visible {spot}.",
    ),
    (
        "The {image} shows {scene}. There is no {one} in the {image}.",
        "The {image} depicts {scene}. No {one} can be seen.",
        "This is {scene}. No, there is no {one} in the {image}.",
        "The {image} shows {scene}. Therefore, the answer is no.",
        "The {image} shows {scene}, without any {many}.",
    ),
)


SELF_CORRECTION: Wordings = (
    (
        "No. Wait, yes, there is {a} {spot}.",
        "No, actually yes, there is {a} in the {image}.",
        "There is no {one} in the {image}. Wait, I made a mistake: there is {a} {spot}.",
        "No... Looking again, there is {a} {spot}.",
        "No, sorry, I mean yes.",
        "At first glance there is no {one}, but on closer inspection there is {a} {spot}.",
    ),
    (
        "Yes. Wait, no, there is no {one} in the {image}.",
        "Yes, actually no, there is no {one} in the {image}.",
        "There is {a} in the {image}. Wait, I made a mistake: there is no {one}.",
        "Yes... Looking again, there is no {one} in the {image}.",
        "Yes, sorry, I mean no.",
        "At first glance there seems to be {a}, but on closer inspection there is no {one}.",
    ),
)


def question_for(noun: Noun) -> str:
    return f"Is there {a(noun.one)} in the image?"


def fill(rng: Random, template: str, noun: Noun) -> str:
    other = other_than(rng, noun)
    return template.format(
        a=a(noun.one),
        A=capital(a(noun.one)),
        one=noun.one,
        many=noun.many,
        b=a(other.one),
        B=capital(a(other.one)),
        other=other.one,
        others=other.many,
        image=rng.choice(IMAGE),
        spot=rng.choice(SPOTS),
        scene=rng.choice(SCENES),
    )


def other_than(rng: Random, noun: Noun) -> Noun:
    """Another object whose name shares no word with ``noun``'s."""
    words = set(noun.one.split())
    return rng.choice([other for other in OBJECTS if not words & set(other.one.split())])


def worded(wordings: Wordings, rng: Random, noun: Noun, yes: bool) -> str:
    return fill(rng, rng.choice(wordings[0 if yes else 1]), noun)


def _chatty(rng: Random, noun: Noun, yes: bool) -> str:
    interjected = ("Indeed", "That is", "No doubt", "Unfortunately", "Not only")
    wordings = rng.choice((STATEMENT, STATEMENT, WORD_AND_SENTENCE))
    sentences = [s for s in wordings[0 if yes else 1] if not s.startswith(interjected)]
    return chatty(rng, fill(rng, rng.choice(sentences), noun))


def any_plain(rng: Random, noun: Noun, yes: bool) -> str:
    return worded(rng.choice((BARE, WORD_AND_SENTENCE, STATEMENT)), rng, noun, yes)


def _prompt_inside(rng: Random, noun: Noun, yes: bool) -> str:
    form = rng.choice(
        (
            "USER: {q} ASSISTANT: {r}",
            "USER: <image>\n{q}\nASSISTANT: {r}",
            "User: {q}\nAssistant: {r}",
            "user\n\n{q}assistant\n\n{r}",
            "Question: {q} Answer: {r}",
            "Question: {q} Short answer: {r}",
            "### Human: {q}\n### Assistant: {r}",
            "[INST] {q} [/INST] {r}",
            "Human: {q}\nAI: {r}",
        )
    )
    return form.format(q=question_for(noun), r=any_plain(rng, noun, yes))


def _echo(rng: Random, noun: Noun, yes: bool) -> str:
    word = "yes" if yes else "no"
    form = rng.choice(
        (
            "{q} {W}.",
            "{q} {W}",
            "{q}\n{W}",
            "{q}\n\n{r}",
            "Q: {q}\nA: {W}",
            '"{q}" {W}.',
            "{q} The answer is {w}.",
            "The question is whether there is {a} in the image. The answer is {w}.",
            "You are asking if there is {a} in the image. {r}",
        )
    )
    reply = worded(rng.choice((WORD_AND_SENTENCE, STATEMENT)), rng, noun, yes)
    return form.format(q=question_for(noun), w=word, W=capital(word), r=reply, a=a(noun.one))


def _runs_on(rng: Random, noun: Noun, yes: bool) -> str:
    form = rng.choice(
        (
            "{r}\nUSER: {q} ASSISTANT: {t}",
            "{r}\nQuestion: {q} Answer: {t}",
            "{r}\nUser: {q}\nAssistant: {t}",
            "{r}\n### Human: {q}\n### Assistant: {t}",
            "{r}\n\nQ: {q}\nA: {t}",
        )
    )
    other = other_than(rng, noun)
    reply = any_plain(rng, noun, yes).strip()
    return form.format(r=reply, q=question_for(other), t=rng.choice(("Yes", "No")))


Answering = Callable[[Random, Noun, bool], str]


POPE: Mapping[str, Answering] = {
    "yes and no: bare": partial(worded, BARE),
    "yes and no: word and sentence": partial(worded, WORD_AND_SENTENCE),
    "yes and no: statement": partial(worded, STATEMENT),
    "yes and no: chatty": _chatty,
    "yes and no: markdown": partial(worded, MARKDOWN),
    "yes and no: scene first": partial(worded, SCENE_FIRST),
    "yes and no: another object": partial(worded, OTHER_OBJECT),
    "yes and no: negation elsewhere": partial(worded, NEGATION_ELSEWHERE),
    "yes and no: prompt in the answer": _prompt_inside,
    "yes and no: echo of the question": _echo,
    "yes and no: runs on into another turn": _runs_on,
    "yes and no: self-correction": partial(worded, SELF_CORRECTION),
}
"""Kind → how it answers "Is there a <object> in the image?" with yes or no."""


def pope(answering: Answering, rng: Random) -> Case:
    """A row of POPE as its files hold it."""
    noun, yes, said = rng.choice(OBJECTS), rng.random() < 0.5, rng.random() < 0.5
    answer = answering(rng, noun, said)
    return Case(question_for(noun), "yes" if yes else "no", answer, verdict(said == yes))
