"""Questions about a scene, each with the answer that the scene makes true.

The categories mirror the benchmarks people use: existence with random, popular and adversarial
absent objects (POPE, Li et al., 2023); colour, number, position and relation (AMBER, Wang et al.,
2023); false premises and insufficient context (HaloQuest, Wang et al., 2024). Every category has
several phrasings, some of which ask for a short answer, so that answers differ in length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.demo_world.scenes import NUMBERS, Scene, company, description, frequency
from tools.demo_world.world import COLOURS, KINDS, article

GREY = "The picture is in black and white."
"""The answer where a colour cannot be told."""

CLEAR_GAP = 0.18
"""Two things are beside (above) each other where their centres are this share of the picture's
width (height) apart, or more."""

CLEAR_SIDE = 0.3
"""A thing is in one half of the picture where its centre is this share of its size, or more, from
the middle line."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one scene."""

    text: str
    """What is asked."""
    answer: str
    """What a model that sees well says."""
    accepted: tuple[str, ...]
    """Every answer that counts as right, shortest first; they share one column, ``; `` between."""
    category: str
    """Key of ``CATEGORIES``, or ``describe``."""
    answer_type: str
    """``yes/no``, ``number``, ``open-ended`` or ``unanswerable``."""
    about: tuple[str, ...] = ()
    """The kinds it is about; a picture is not asked the same of the same kinds twice."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How a set of questions is put together."""

    weights: Mapping[str, float]
    """Category → share; need not add up to 1."""
    yes_share: float
    """How often an existence question is about something that is there."""
    tempting_share: float
    """How often a false premise is about what usually keeps company with what is there; otherwise
    its object is chosen as the mix's ``absent`` says."""
    absent: str = "random"
    """How absent objects are chosen outside POPE's categories, see ``absent_kind``."""


def ask(scene: Scene, category: str, rng: random.Random, mix: Mix) -> Question | None:
    """Return a question of this category, or None where the scene allows none.

    Args:
        scene: What it is about.
        category: Key of ``CATEGORIES``, or ``describe``.
        rng: Chooses object and phrasing.
        mix: The shares within a category.
    """
    if category.startswith("existence-"):
        how = category.removeprefix("existence-")
        return _existence(scene, rng, how, there=rng.random() < mix.yes_share)
    if category == "false-premise":
        tempting = rng.random() < mix.tempting_share
        return _false_premise(scene, rng, "adversarial" if tempting else mix.absent)
    if category == "count":
        return _count(scene, rng, mix.absent)
    return _MAKERS[category](scene, rng)


def absent_kind(scene: Scene, how: str, rng: random.Random) -> str:
    """Return a kind that is not in the scene, chosen as POPE does.

    Args:
        scene: The scene.
        how: ``random``: any; ``popular``: one of the six that most pictures have;
            ``adversarial``: one of the two that most often keep company with what is here;
            ``foreign``: one that belongs to another place than this picture's.
        rng: The draw.
    """
    counts = scene.counts()
    absent = [kind for kind in KINDS if not counts[kind]]
    if how == "foreign":
        absent = [kind for kind in absent if KINDS[kind].place != scene.place]
    elif how == "popular":
        absent = sorted(absent, key=lambda kind: -frequency()[kind])[:6]
    elif how == "adversarial":
        together = company()
        absent = sorted(absent, key=lambda kind: -sum(together[kind, here] for here in counts))[:2]
    return rng.choice(absent)


def _existence(scene: Scene, rng: random.Random, how: str, *, there: bool) -> Question:
    """Ask whether something is there."""
    kind = rng.choice(sorted(scene.counts())) if there else absent_kind(scene, how, rng)
    thing = f"{article(kind)} {kind}"
    text, yes, no = rng.choice((
        (f"Is there {thing} in the picture?", f", there is {thing}.", f", there is no {kind}."),
        (f"Is there {thing} in the image? Please answer yes or no.", ".", "."),
        (f"Can you see {thing} here?", f", I can see {thing}.", f", I cannot see {thing}."),
        (f"Does the picture show {thing}?", ".", "."),
    ))  # fmt: skip
    return _yes_no(text, there, (yes, no), f"existence-{how}", (kind,))


def _colour(scene: Scene, rng: random.Random) -> Question | None:
    """Ask for the colour of something there is one of."""
    kind = _lone_kind(scene, rng)
    if kind is None or scene.look.grey:
        return None
    colour = scene.only(kind).colour
    text, answer = rng.choice(_colour_phrases(kind, colour))
    accepted = (colour, f"The {kind} is {colour}.")
    return Question(text, answer, accepted, "colour", "open-ended", (kind,))


def _colour_check(scene: Scene, rng: random.Random) -> Question | None:
    """Ask whether something has a colour: its own, or rather the one that its kind mostly has."""
    kind = _lone_kind(scene, rng)
    if kind is None or scene.look.grey:
        return None
    true = scene.only(kind).colour
    right = rng.random() < 0.5
    typical = KINDS[kind].colour
    tempting = typical if typical != true and rng.random() < 0.7 else None
    wrong = tempting or rng.choice([colour for colour in COLOURS if colour != true])
    said = true if right else wrong
    text, yes, no = rng.choice((
        (f"Is the {kind} {said}?", f", the {kind} is {said}.", f", the {kind} is not {said}."),
        (f"Is the colour of the {kind} {said}? Please answer yes or no.", ".", "."),
    ))  # fmt: skip
    return _yes_no(text, right, (yes, no), "colour-check", (kind,))


def _count(scene: Scene, rng: random.Random, how: str) -> Question:
    """Ask how many there are, now and then of what is not there."""
    counts = scene.counts()
    present = [kind for kind in sorted(counts) for _ in range(counts[kind])]
    kind = rng.choice(present) if rng.random() < 0.88 else absent_kind(scene, how, rng)
    n, noun = counts[kind], KINDS[kind]
    sentence = f"There is one {kind}." if n == 1 else f"There are {NUMBERS[n]} {noun.plural}."
    text, answer = rng.choice(
        (
            (f"How many {noun.plural} are there?", sentence),
            (f"How many {noun.plural} are in the picture?", sentence),
            (f"How many {noun.plural} do you see? Answer with a number.", f"{n}"),
        )
    )
    words = (f"{n}", NUMBERS[n] if n else "zero", sentence)
    return Question(text, answer, words, "count", "number", (kind,))


def _position(scene: Scene, rng: random.Random) -> Question | None:
    """Ask which half of the picture something is in."""
    kind = _lone_kind(scene, rng)
    if kind is None:
        return None
    thing = scene.only(kind)
    across, down = thing.x - scene.width / 2, thing.y - scene.height / 2
    sides = []
    if abs(across) >= CLEAR_SIDE * thing.size:
        sides.append(("left", "right", across < 0))
    if abs(down) >= CLEAR_SIDE * thing.size:
        sides.append(("upper", "lower", down < 0))
    if not sides:
        return None
    first, second, is_first = rng.choice(sides)
    true = first if is_first else second
    if rng.random() < 0.5:
        text = f"Is the {kind} in the {first} or in the {second} half?"
        sentence = f"The {kind} is in the {true} half."
        return Question(text, sentence, (true, sentence), "position", "open-ended", (kind,))
    said = rng.choice((first, second))
    text = f"Is the {kind} in the {said} half of the picture?"
    where = f", it is in the {true} half."
    return _yes_no(text, said == true, (where, where), "position", (kind,))


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    """Ask how two things stand to each other, along the axis on which they are further apart."""
    lone = [kind for kind, count in sorted(scene.counts().items()) if count == 1]
    if len(lone) < 2:
        return None
    one, other = (scene.only(kind) for kind in rng.sample(lone, 2))
    dx, dy = one.x - other.x, one.y - other.y
    sides = (("to the left of", "to the right of"), ("above", "below"))[abs(dy) > abs(dx)]
    gap, room = (dy, scene.height) if abs(dy) > abs(dx) else (dx, scene.width)
    if abs(gap) < CLEAR_GAP * room:
        return None
    asked, opposite = rng.choice((sides, sides[::-1]))
    right = (gap < 0) == (asked == sides[0])
    a, b = one.kind, other.kind
    text, yes, no = rng.choice((
        (f"Is the {a} {asked} the {b}?", f", it is {asked} the {b}.", f", it is {opposite} it."),
        (f"Is the {a} {asked} the {b}? Please answer yes or no.", ".", "."),
    ))  # fmt: skip
    return _yes_no(text, right, (yes, no), "relation", tuple(sorted((a, b))))


def _false_premise(scene: Scene, rng: random.Random, how: str) -> Question:
    """Ask for the colour of what is not there."""
    kind = absent_kind(scene, how, rng)
    text, _ = rng.choice(_colour_phrases(kind, ""))
    sentence = f"There is no {kind} in the picture."
    accepted = (sentence, GREY) if scene.look.grey else (sentence,)
    return Question(text, sentence, accepted, "false-premise", "unanswerable", (kind,))


def _insufficient(scene: Scene, rng: random.Random) -> Question | None:
    """Ask what the picture cannot tell."""
    kind = _lone_kind(scene, rng)
    if kind is None:
        return None
    if scene.look.grey and rng.random() < 0.85:
        text, _ = rng.choice(_colour_phrases(kind, ""))
        sentence = GREY
    else:
        text = rng.choice((
            f"Who owns the {kind}?", f"How old is the {kind}?",
            f"How much does the {kind} weigh?", f"Who put the {kind} there?",
        ))  # fmt: skip
        sentence = "The picture does not show that."
    return Question(text, sentence, (sentence,), "insufficient-context", "unanswerable", (kind,))


def _describe(scene: Scene, rng: random.Random) -> Question:
    """Ask for a caption."""
    text = rng.choice(("Describe the picture.", "Describe this image.", "What does this show?"))
    caption = description(scene)
    return Question(text, caption, (caption,), "describe", "open-ended")


def _yes_no(
    text: str, truth: bool, tails: tuple[str, str], category: str, about: tuple[str, ...]
) -> Question:
    """Return a question to be answered by yes or no; ``tails`` are what follows either."""
    word, tail = ("Yes", tails[0]) if truth else ("No", tails[1])
    return Question(text, word + tail, (word,), category, "yes/no", about)


def _colour_phrases(kind: str, colour: str) -> tuple[tuple[str, str], ...]:
    """Return (question, answer) in each phrasing; of something absent it is a false premise."""
    return (
        (f"What colour is the {kind}?", f"The {kind} is {colour}."),
        (f"Which colour does the {kind} have?", f"The {kind} is {colour}."),
        (f"What is the colour of the {kind}? Answer in one word.", f"{colour}.".capitalize()),
    )


def _lone_kind(scene: Scene, rng: random.Random) -> str | None:
    """Return a kind of which there is exactly one, or None."""
    lone = [kind for kind, count in sorted(scene.counts().items()) if count == 1]
    return rng.choice(lone) if lone else None


_MAKERS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "colour": _colour,
    "colour-check": _colour_check,
    "position": _position,
    "relation": _relation,
    "insufficient-context": _insufficient,
    "describe": _describe,
}

CATEGORIES = (
    "existence-random",
    "existence-popular",
    "existence-adversarial",
    "colour",
    "colour-check",
    "count",
    "position",
    "relation",
    "false-premise",
    "insufficient-context",
)
"""The categories of the bundled questions; in training there is also ``describe``."""
