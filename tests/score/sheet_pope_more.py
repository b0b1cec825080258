"""POPE in further wordings: written later than ``sheet_pope``, and before the rules met them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from sheet_forms import Noun, a, after_prefix, capital
from sheet_pope import Wordings, other_than, question_for, worded

_BARE_FORMS = (
    *("[{1}]", "({1})", "<answer>{1}</answer>", "`{0}`", "'{1}'", "ANSWER: {2}", "- {1}"),
    *("$\\boxed{{\\text{{{1}}}}}$", "The final answer is: $\\boxed{{{0}}}$", "My answer is {0}."),
    *("In short, {0}.", "Response: {1}", "=> {1}", "The correct response would be {0}."),
    *("Answer - {1}", "I would say {0}.", "I'd answer {0}.", "So, {0}.", "{1}, of course."),
)


def _bare(word: str, *others: str) -> tuple[str, ...]:
    spelled = (form.format(word, word.capitalize(), word.upper()) for form in _BARE_FORMS)
    return (*(text.replace("{", "{{").replace("}", "}}") for text in spelled), *others)


BARE: Wordings = (
    _bare(
        "yes",
        *("Yes indeed.", "Absolutely.", "Definitely.", "Correct.", "It is.", "There is one."),
        *("Affirmative.", "yes it is", "Yes, it does.", "Of course.", "Certainly.", "Yup."),
        *("I can see one.", "I do see one.", "Sure.", "Yes, one.", "Yes, I do.", "Yes, several."),
    ),
    _bare(
        "no",
        *("Absolutely not.", "Definitely not.", "Incorrect.", "It is not.", "There is none."),
        *("Negative.", "No, it doesn't.", "Of course not.", "Certainly not.", "Nah."),
        *("I can't see one.", "I do not see one.", "None.", "Not at all.", "Not in this image."),
        *("I see none.", "No such object.", "No, none at all.", "No, I don't.", "Sadly, no."),
    ),
)


WORD_AND_SENTENCE: Wordings = (
    (
        "Yes, the {image} features {a} {spot}.",
        "Yes, you can spot {a} {spot}.",
        "Yes, at least one {one} is visible.",
        "Yes; {a} appears {spot}.",
        "Yes: {a} {spot}.",
        "Yes, {a}.",
        "Yes, there is. It is {spot}.",
        "Yes, and it is {spot}.",
        "Yes, I believe there is {a} in the {image}.",
        "Yes, you are right, there is {a}.",
        "Yes, clearly. {A} is {spot}.",
        "Yes \N{EM DASH} there is {a} {spot}.",
        "Yes. In the {image}, {a} is located {spot}.",
        "Yes, more than one {one} can be seen.",
        "Yes, that is {a} {spot}.",
        "Yes, there is {a} in the {image}, but it is small.",
    ),
    (
        "No, there is nothing like that in the {image}.",
        "No, not a single {one} can be seen.",
        "No; {a} does not appear anywhere.",
        "No: the {image} contains no {many}.",
        "No, there is not. The {image} shows {scene}.",
        "No, and there is nothing that resembles one either.",
        "No, I believe there is no {one} in the {image}.",
        "No, there are zero {many}.",
        "No, you are mistaken, there is no {one}.",
        "No, clearly not. The {image} shows {scene}.",
        "No \N{EM DASH} there is no {one} anywhere.",
        "No. In the {image}, {scene} can be seen, but no {one}.",
        "No, {many} are absent from the {image}.",
        "No, it shows {scene} instead.",
        "No, there is no {one} or {other} in the {image}.",
        "No, I looked carefully and found no {one}.",
    ),
)


STATEMENT: Wordings = (
    (
        "{A} appears {spot}.",
        "You'll find {a} {spot}.",
        "We can see {a} {spot}.",
        "One {one} is {spot}.",
        "{A} is clearly shown in the {image}.",
        "The {image} has {a} {spot}.",
        "The {image} captures {a} {spot}.",
        "In the {image} there is {a}.",
        "A person is standing beside {a}.",
        "This {image} includes at least one {one}.",
        "There are three {many}, all of them {spot}.",
        "There happens to be {a} {spot}.",
        "There definitely is {a} in the {image}.",
        "The object {spot} is {a}.",
        "What you see {spot} is {a}.",
        "I would say there is {a} in the {image}.",
        "It is true that there is {a} in the {image}.",
        "A large {one} stands {spot}.",
        "Without a doubt, there is {a} in the {image}.",
        "You can't miss the {one} {spot}.",
        "It's not hard to spot the {one} {spot}.",
        "There's no question that there is {a} in the {image}.",
    ),
    (
        "There is nothing resembling {a} in the {image}.",
        "There is no trace of {a} in the {image}.",
        "The {many} are nowhere to be seen.",
        "I fail to see {a} in the {image}.",
        "I see no {one} in the {image}.",
        "I find no {many} here.",
        "We don't see {a} in the {image}.",
        "No such object as {a} can be found in the {image}.",
        "This {image} is without {a}.",
        "The {image} shows {scene} and no {many}.",
        "It is not true that there is {a} in the {image}.",
        "It is false that the {image} contains {a}.",
        "There isn't even one {one} in the {image}.",
        "Not one {one} is visible.",
        "Neither {a} nor anything similar is visible in the {image}.",
        "{A} isn't part of the {image}.",
        "Nothing in the {image} is {a}.",
        "There's not {a} to be found in the {image}.",
        "It seems there are no {many} in the {image}.",
        "No {one} here.",
        "The {image} contains zero {many}.",
        "There's no question that there is no {one} in the {image}.",
    ),
)


MARKDOWN: Wordings = (
    (
        "- **Yes**",
        "# Yes",
        "> Yes, there is {a}.",
        "__Yes__, there is {a} in the {image}.",
        "**Final Answer:** Yes",
        "**Observation:** {A} is {spot}.\n\n**Conclusion:** Yes",
        "| Object | Present |\n|---|---|\n| {one} | Yes |",
        "- Object: {one}\n- Present: yes",
        "***Yes.*** {A} is {spot}.",
        "**Reasoning:** The {image} shows {scene}. {A} can be seen {spot}.\n**Answer:** Yes.",
        "## Analysis\nThe {image} shows {a} {spot}.\n\n## Answer\nYes",
        "<b>Yes</b>, there is {a} {spot}.",
        "\N{WHITE HEAVY CHECK MARK} Yes, there is {a}.",
    ),
    (
        "- **No**",
        "# No",
        "> No, there is no {one}.",
        "__No__, there is no {one} in the {image}.",
        "**Final Answer:** No",
        "**Observation:** No {one} is visible.\n\n**Conclusion:** No",
        "| Object | Present |\n|---|---|\n| {one} | No |",
        "- Object: {one}\n- Present: no",
        "***No.*** The {image} shows {scene}.",
        "**Reasoning:** The {image} shows {scene}. {A} cannot be seen.\n**Answer:** No.",
        "## Analysis\nThe {image} shows {scene}.\n\n## Answer\nNo",
        "<b>No</b>, there is no {one} in the {image}.",
        "\N{CROSS MARK} No, there is no {one}.",
    ),
)


SCENE_FIRST: Wordings = (
    (
        "In this {image}, {scene} can be seen. {A} is also present {spot}.",
        "We see {scene}. Among other things, there is {a} {spot}.",
        "The {image} shows {scene}, and there is {a} {spot}.",
        "The {image} captures {scene}. So yes, there is {a}.",
        "The {image} shows {scene}. To answer the question: yes.",
        "The main subject is {scene}. However, {a} is visible {spot}.",
        "The {image} shows {scene}. I also looked for {a}, and I found one {spot}.",
        "The {image} shows {scene}, with {a} {spot}. Answer: Yes.",
        "Apart from {scene}, there is {a} {spot}.",
        "This is a photo of {scene}. Behind it, {a} can be made out.",
        "I see {scene}. Yes.",
    ),
    (
        "In this {image}, {scene} can be seen. {A} is not present.",
        "We see {scene}. Nowhere is there {a}.",
        "The {image} shows {scene}, and there is no {one}.",
        "The {image} captures {scene}. So no, there is no {one}.",
        "The {image} shows {scene}. To answer the question: no.",
        "The main subject is {scene}. However, no {one} is visible.",
        "The {image} shows {scene}. I also looked for {a}, but I found none.",
        "The {image} shows {scene}, but no {many}. Answer: No.",
        "Apart from {scene}, there is nothing to be seen, and no {one} either.",
        "This is a photo of {scene}. There are no {many} in it.",
        "I see {scene}. No.",
    ),
)


OTHER_OBJECT: Wordings = (
    (
        "{A} and {b} can be seen {spot}.",
        "Besides {b}, there is {a} in the {image}.",
        "There is {a}. I do not see {b}, though.",
        "There is {a} but not {b} in the {image}.",
        "Instead of {b}, there is {a} {spot}.",
        "{A} is present, whereas {b} is not.",
        "There is no {other}; there is, however, {a} {spot}.",
        "Yes, {a}, but no {other}.",
        "There are several objects: {b}, {a}, and a wall.",
        "The {one} is next to {b}.",
        "I see {b} on the left and {a} on the right.",
        "That is not {b} but {a}.",
    ),
    (
        "I see {b} but not {a}.",
        "The {image} shows {b} rather than {a}.",
        "Instead of {a}, there is {b} {spot}.",
        "{B} is present, whereas {a} is not.",
        "There is no {one}; there is, however, {b} {spot}.",
        "There are {others}, but no {many}.",
        "Not {a}, but {b} is visible {spot}.",
        "No, just {b}.",
        "No, that is {b}.",
        "What looks like {a} is actually {b}.",
        "There is no {one}, only {b}.",
        "The {image} has {b} and no {one}.",
        "Neither {b} nor {a} can be seen in the {image}.",
    ),
)


NEGATION_ELSEWHERE: Wordings = (
    (
        "There is {a} {spot} that nobody is using.",
        "Yes, there is {a}, which is not fully in frame.",
        "There is {a} {spot}. Nothing else is near it.",
        "Yes. No one is using it.",
        "The {one} {spot} is not moving.",
        "There is {a}, no doubt about it.",
        "There is {a} in the {image}; it's not broken.",
        "Yes, though it is not easy to see.",
        "There is {a} {spot}, without anyone around it.",
        "Nobody is in the {image}, just {a} {spot}.",
        "Yes, there is {a}. I cannot read the text beside it.",
        "There is {a} {spot}, but I can't tell its color.",
        "There are no other objects than {a} in the {image}.",
    ),
    (
        "No, the objects {spot} are {others}.",
        "There is no {one}. There is a sign, though, that says yes.",
        "No. Everything in the {image} is sharp, and there is {b} {spot}.",
        "There is no {one}, although {b} is present.",
        "No. You can see {b} and a wall.",
        "I see {b} {spot}, but I don't see {a}.",
        "I looked for {a} everywhere and found only {b}.",
        "There is certainly {b} {spot}, but there is certainly no {one}.",
        "No, and I do not see {b} either.",
        "There is no {one} in the {image}, if that is what you mean.",
        "No. Yes would be the answer if you had asked for {b}.",
    ),
)


SELF_CORRECTION: Wordings = (
    (
        "No - wait, yes.",
        "No, scratch that, there is {a} {spot}.",
        "No. Hmm, let me look again. Yes, there is {a}.",
        "I was wrong: there is {a} in the {image}.",
        "No. I take that back: there is {a} {spot}.",
        "I thought there was no {one}, but there is one {spot}.",
        "No... oh, there is {a} {spot} after all.",
        "No, my mistake, yes.",
        "No. Correction: yes.",
        "No, or rather yes, there is {a} {spot}.",
        "My first answer was no, but it is yes: there is {a} {spot}.",
        "No, hold on, yes, there is {a}.",
    ),
    (
        "Yes - wait, no.",
        "Yes, scratch that, there is no {one}.",
        "Yes. Hmm, let me look again. No, there is no {one}.",
        "I was wrong: there is no {one} in the {image}.",
        "Yes. I take that back: there is no {one}.",
        "I thought there was {a}, but there is none.",
        "Yes... oh, there is no {one} after all.",
        "Yes, my mistake, no.",
        "Yes. Correction: no.",
        "Yes, or rather no, there is no {one} {spot}.",
        "My first answer was yes, but it is no: there is no {one}.",
        "Yes, hold on, no, there is no {one}.",
    ),
)


def _records(word: str, true: str, sentence: str) -> tuple[str, ...]:
    forms = (
        *('{"answer": "%w"}', '```json\n{"answer": "%w"}\n```', "{'answer': '%W'}", '["%w"]'),
        *('{"object": "{one}", "present": %t}', '{"answer": "%s"}', '{"answer": %t}'),
        *('{"reasoning": "The image shows {scene}.", "answer": "%w"}', '{"final_answer": "%w"}'),
        *('{"response": "%w", "confidence": 0.93}', 'json\n{\n  "answer": "%W"\n}', "answer: %w"),
        *("<answer>%s</answer>", '{"exists": %t, "object": "{one}"}', '{"result": "%W"}'),
    )
    texts = []
    for form in forms:
        escaped = form.replace("{", "{{").replace("}", "}}")
        escaped = escaped.replace("{{one}}", "{one}").replace("{{scene}}", "{scene}")
        said = escaped.replace("%w", word).replace("%W", word.capitalize()).replace("%t", true)
        texts.append(said.replace("%s", sentence))
    return tuple(texts)


RECORD: Wordings = (
    _records("yes", "true", "Yes, there is {a} in the {image}."),
    _records("no", "false", "No, there is no {one} in the {image}."),
)


THOUGHT: Wordings = (
    (
        "<think>The {image} shows {scene}. I see {a} {spot}.</think>\nYes",
        "<think>I see no {one} at first. But there is one {spot}.</think> Yes, there is {a}.",
        "<think>\nNo, wait. There is {a}.\n</think>\n\nThere is {a} in the {image}.",
        "<thinking>I look for {a}.</thinking>\n<answer>Yes</answer>",
        "Thought: I look for {a}. There is one {spot}.\nFinal Answer: Yes",
        "Reasoning: The {image} shows {scene}. {A} is {spot}. Answer: yes.",
        "Let's think step by step. The {image} shows {scene}. {A} is {spot}. So the answer is yes.",
        "\N{WHITE LEFT-POINTING TRIANGLE}think\N{WHITE RIGHT-POINTING TRIANGLE}Maybe {b}?"
        "\N{WHITE LEFT-POINTING TRIANGLE}/think\N{WHITE RIGHT-POINTING TRIANGLE}Yes",
        "<reasoning>There is {b}.</reasoning>\nYes, there is {a}.",
        "Step 1: I look at the {image}.\nStep 2: I find {a} {spot}.\nTherefore, yes.",
        "Hmm, I wonder if there is {a}. I look {spot}, and there is one. Yes.",
    ),
    (
        "<think>The {image} shows {scene}. I see no {one}.</think>\nNo",
        "<think>I see {a} at first. But it is {b}.</think> No, there is no {one}.",
        "<think>\nYes, wait. There is no {one}.\n</think>\n\nThere is no {one} in the {image}.",
        "<thinking>I look for {a}.</thinking>\n<answer>No</answer>",
        "Thought: I look for {a}. There is none.\nFinal Answer: No",
        "Reasoning: The {image} shows {scene}. {A} is not visible. Answer: no.",
        "Let's think step by step. The {image} shows {scene}. I see no {one}. So the answer is no.",
        "\N{WHITE LEFT-POINTING TRIANGLE}think\N{WHITE RIGHT-POINTING TRIANGLE}Maybe {a}?"
        "\N{WHITE LEFT-POINTING TRIANGLE}/think\N{WHITE RIGHT-POINTING TRIANGLE}No",
        "<reasoning>There is {b}.</reasoning>\nNo, there is no {one}.",
        "Step 1: I look at the {image}.\nStep 2: I find {b} {spot}, but no {one}.\nTherefore, no.",
        "Hmm, I wonder if there is {a}. I look {spot}, and there is none. No.",
    ),
)

_PREFIXES = (
    *("Of course! ", "Happy to help! ", "Let's see. ", "Let me take a look. ", "Hello! ", "Well, "),
    *("Good question. ", "Okay, ", "Judging by the image, ", "As far as I can tell, "),
    *("After a careful look at the image, ", "In this picture, ", "To answer your question, "),
    *("Having looked at the image, ", "Looking closely, ", "Thanks for sharing this image! "),
    *("I have analyzed the image. ", "Here is what I found: ", "My answer: "),
)
_SUFFIXES = (
    *("", " Feel free to ask more questions.", " Would you like to know more?"),
    *(" Do you want me to describe the rest of the image?", " Hope that answers your question."),
    *(" If you need anything else, just ask.", " \N{SMILING FACE WITH SMILING EYES}"),
    " Please let me know if you need a more detailed description.",
)


def _chatty(rng: Random, noun: Noun, yes: bool) -> str:
    body = worded(rng.choice((STATEMENT, WORD_AND_SENTENCE)), rng, noun, yes)
    prefix = rng.choice(_PREFIXES)
    if not prefix.rstrip().endswith(("!", ".")):
        body = after_prefix(body)
    return prefix + body + rng.choice(_SUFFIXES)


def any_plain(rng: Random, noun: Noun, yes: bool) -> str:
    return worded(rng.choice((BARE, WORD_AND_SENTENCE, STATEMENT)), rng, noun, yes)


_ROLES = (
    ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    ("<s>[INST] <image>\n", " [/INST] ", "</s>"),
    ("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>"),
    ("Instruction: ", "\nResponse: ", "\n"),
    ("### Instruction:\n", "\n\n### Response:\n", "\n\n"),
    ("**User:** ", "\n**Assistant:** ", "\n"),
    ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n"),
    ("user\n", "\nassistant\n", "\n"),
    ("Query: ", "\nReply: ", "\n"),
    ("Human: ", "\n\nAssistant: ", "\n\n"),
    ("[User]: ", "\n[Assistant]: ", "\n"),
    ("Q. ", "\nA. ", "\n"),
    ("<|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
)  # fmt: skip
"""What stands before a question, between it and its answer, and behind."""


def _prompt_inside(rng: Random, noun: Noun, yes: bool) -> str:
    before, between, after = rng.choice(_ROLES)
    system = rng.choice(("", "", "system\nYou are a helpful assistant.\n"))
    if before[0] in "#*[Q":
        system = ""
    after = rng.choice(("", after)).rstrip("\n")
    reply = any_plain(rng, noun, yes)
    return system + before + question_for(noun) + between + reply + after


def _echo(rng: Random, noun: Noun, yes: bool) -> str:
    word = "yes" if yes else "no"
    form = rng.choice(
        (
            "You asked: {q} {W}.",
            'To the question "{q}", the answer is {w}.',
            "{q} - {W}",
            "{q} -> {W}",
            "Whether there is {a} in the image? {W}.",
            "Regarding your question whether there is {a} in the image: {w}.",
            "The question asks if there is {a} in the image. {r}",
            "**{q}**\n{W}",
            '"Is there {a}?" {W}.',
            "As for whether there is {a} in the image, the answer is {w}.",
            "Let me check if there is {a} in the image. {r}",
            "{q}\n\n**{W}**",
        )
    )
    reply = worded(rng.choice((WORD_AND_SENTENCE, STATEMENT)), rng, noun, yes)
    return form.format(q=question_for(noun), w=word, W=capital(word), r=reply, a=a(noun.one))


def _runs_on(rng: Random, noun: Noun, yes: bool) -> str:
    before, between, after = rng.choice(_ROLES)
    other = other_than(rng, noun)
    reply = any_plain(rng, noun, yes).strip()
    turn = before + question_for(other) + rng.choice(("", between + rng.choice(("Yes", "No"))))
    return reply + after + turn


POPE: Mapping[str, Callable[[Random, Noun, bool], str]] = {
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
    "yes and no: record": partial(worded, RECORD),
    "yes and no: thought": partial(worded, THOUGHT),
}
"""Kind → how it answers "Is there a <object> in the image?" with yes or no."""
