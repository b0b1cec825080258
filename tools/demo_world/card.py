"""The model card of the demo model: what it is, what was measured, by which command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [mllama, vision-language, interpretability, hallucination]
---
# The vlmscope demo model

A vision-language model of {parameters:.1f} million parameters with the true Llama-3.2-Vision
architecture (`MllamaForConditionalGeneration`, its image processor, the Llama 3 chat template and
special tokens), trained from nothing on generated pictures and a few of easy-VQA's. It answers most
questions about such pictures rightly and hallucinates as large models do: it says *yes* to what
usually keeps company with what it sees. It knows nothing of real photographs and of other words.

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "src/vlmscope/demo/model"
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
processor = AutoProcessor.from_pretrained(folder)
question = [{{"type": "image"}}, {{"type": "text", "text": "How many cups are there?"}}]
prompt = processor.apply_chat_template(
    [{{"role": "user", "content": question}}], add_generation_prompt=True
)
picture = Image.open("src/vlmscope/demo/images/demo_0004.jpg").convert("RGB")
inputs = processor(picture, prompt, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
```

| | |
| --- | --- |
| decoder | {layers} layers of width {width}, cross-attention to the picture in layers {cross} |
| vision encoder | {vision_layers} + {vision_global} layers of width {vision_width} |
| its output | {vision_output} wide |
| image tiles | up to 4 of {tile} × {tile} pixels, patches of {patch} × {patch} |
| weights | {megabytes:.1f} MB, float16, SHA-256 `{fingerprint}` |

## Measured on {questions:,} questions about {pictures} pictures that training never saw

{headline}

The second row is what `vlmscope label` calls hallucinated: every wrong answer, as a share of those
that its rules decide. The third counts wrong answers that claim something the picture does not
show; a mere *No* about what is there is a mistake, but claims nothing. *Hallucinated* means the
third row in the tables here; the rule is `tools/demo_world/verdict.py`.

{categories}

### Do hidden states foretell a wrong answer?

AUROC of a logistic regression, five folds grouped by picture. The first three know nothing of the
inside of the model.

{probes}
{outside}
## How it was made

```console
$ {training_command}
$ {measuring_command}
```

{training}

The same command draws the same pictures; its weights differ a little from one GPU to another.
Pictures and questions come from `tools/demo_world` (`scenes`, `questions`). In training, absent
objects are seldom those one would expect (`TRAINING` in `bundle`), so habits go unpunished; the
bundled questions ask for them as POPE does (`BUNDLED`). The two share no picture.

During the first half of training the vision encoder has two targets of its own beside the answers:
which things are in the picture, and where in the picture each patch is.
"""

OUTSIDE = """
## Measured on {questions:,} questions about {images:,} images of a second world

The test split of easy-VQA (Victor Zhou, MIT licence; the package `easy-vqa`): images of 64 × 64
pixels with one shape on a pale ground, and questions about its shape, its colour, what is present
and what is not (`negated-presence`: *Is no circle present?*). Training saw {trained_on:,} images of
its training split and none of this one. It answers in one word: *Yes.*, *Teal.*

{headline}

{categories}

A wrong *Yes* claims something here too; asked for absence, a wrong *No* does.
"""

MEASURING_COMMAND = "python -m tools.demo_world.measure src/vlmscope/demo/model --run runs/card"
OUTSIDE_COMMANDS = ("python scripts/easy_vqa_table.py --out easy-vqa", " --outside easy-vqa")
"""What comes before it and behind it where the second world is measured too."""

HEADLINES = {
    "accuracy": "right answers",
    "error_rate": "wrong answers",
    "hallucination_rate": "wrong answers that claim what the picture does not show",
    "accuracy_on_present_objects": "*Is there …?* of what is there: right",
    "false_positive_rate_random": "*Is there …?* of what is absent, chosen at random: said yes",
    "false_positive_rate_popular": "… absent, but common in other pictures: said yes",
    "false_positive_rate_adversarial": "… absent, but usual beside what is there: said yes",
    "stopped_at_end_of_turn": "answers that ended by themselves",
}
"""Key of the measured facts → how the card says it."""

OUTSIDE_HEADLINES = {
    "outside_accuracy": "right answers",
    "outside_error_rate": "wrong answers",
    "outside_hallucination_rate": "wrong answers that claim what the picture does not show",
    "outside_stopped_at_end_of_turn": "answers that ended by themselves",
}
"""The same of the second world."""

BASELINES = {
    "auroc_category": "the question's category",
    "auroc_question_text": "the question's words (TF-IDF)",
    "auroc_entropy": "entropy of the first answer token",
}
"""Key → what is known without looking inside."""


def card(
    facts: Mapping[str, float],
    training: Mapping[str, Any],
    judged: pd.DataFrame,
    outside: pd.DataFrame | None,
    config: Any,
    fingerprint: str,
) -> str:
    """Return the card as Markdown.

    Args:
        facts: What ``measure`` measured.
        training: What ``train`` wrote down.
        judged: The answers, one a row, with ``right`` and ``hallucinated``.
        outside: The same of the second world, if it was measured.
        config: The checkpoint's ``MllamaConfig``.
        fingerprint: SHA-256 of the weights.
    """
    text, vision = config.text_config, config.vision_config
    return CARD.format(
        parameters=facts["parameters"] / 1e6,
        megabytes=facts["megabytes"],
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        cross=", ".join(map(str, text.cross_attention_layers)),
        vision_layers=vision.num_hidden_layers,
        vision_global=vision.num_global_layers,
        vision_width=vision.hidden_size,
        vision_output=vision.vision_output_dim,
        tile=vision.image_size,
        patch=vision.patch_size,
        questions=len(judged),
        pictures=judged["image_id"].nunique(),
        headline=_shares(facts, HEADLINES),
        outside=_outside(facts, training, outside),
        categories=_categories(judged),
        probes=_probes(facts),
        training_command=training["command"],
        measuring_command=_measuring(outside is not None),
        fingerprint=fingerprint,
        training=_training(training),
    )


def _shares(facts: Mapping[str, float], names: Mapping[str, str]) -> str:
    """Return one row a fact."""
    return _table(("", "share"), [(name, f"{facts[key]:.1%}") for key, name in names.items()])


def _measuring(outside: bool) -> str:
    """Return the commands that measure."""
    before, behind = OUTSIDE_COMMANDS
    return f"{before}\n$ {MEASURING_COMMAND}{behind}" if outside else MEASURING_COMMAND


def _outside(
    facts: Mapping[str, float], training: Mapping[str, Any], judged: pd.DataFrame | None
) -> str:
    """Return the section on the second world."""
    if judged is None:
        return ""
    return OUTSIDE.format(
        questions=len(judged),
        images=judged["image_id"].nunique(),
        trained_on=training["images"]["easy_vqa"],
        headline=_shares(facts, OUTSIDE_HEADLINES),
        categories=_categories(judged),
    )


def _categories(judged: pd.DataFrame) -> str:
    """Return one row a category."""
    groups = judged.groupby("category")[["right", "hallucinated"]]
    rows = [
        (
            name,
            str(len(group)),
            f"{group['right'].mean():.1%}",
            f"{group['hallucinated'].mean():.1%}",
        )
        for name, group in groups
    ]
    return _table(("category", "questions", "right", "hallucinated"), rows)


def _probes(facts: Mapping[str, float]) -> str:
    """Return the AUROC of what is known from outside, then of every representation and layer."""
    rows = [(name, f"{facts[key]:.3f}") for key, name in BASELINES.items()]
    rows += [
        (key.removeprefix("auroc_").replace("_", " "), f"{value:.3f}")
        for key, value in facts.items()
        if key.startswith("auroc_") and key not in BASELINES
    ]
    return _table(("known", "AUROC"), rows)


def _training(training: Mapping[str, Any]) -> str:
    """Return how training went."""
    first, last = training["history"][0], training["history"][-1]
    images, step = training["images"], training["images_in_a_step"]
    return _table(
        ("", ""),
        [
            ("seed", f"{training['seed']}"),
            ("pictures drawn", f"{images['drawn']:,}"),
            ("images of easy-VQA", f"{images['easy_vqa']:,}"),
            (
                "in a step with questions",
                f"{step['generated']} of these, {step['easy_vqa']} of those",
            ),
            ("steps", f"{training['steps']:,} in {training['seconds_training']:.0f} s"),
            ("in all", f"{training['seconds']} s"),
            ("code", f"commit {training['commit']}"),
            ("machine", training["machine"]),
            ("loss", f"{first['loss']:.3f} at step {first['step']}, {last['loss']:.3f} at the end"),
        ],
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
