"""The tiny checkpoints themselves: each loads as a released one does, and behaves like its family.

Nothing of vlmscope's engine takes part, except ``load_processor``. What a family's checkpoint is
trusted for elsewhere is checked here: no weight is missing, padding and neighbours in a batch
change nothing, the image changes the answer's state, and the rule by which the encoder's output
falls into images is the true one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor

from families.checkpoints import BUILDERS
from families.conformance import SINCE, VERSION, WANTS_TIMM, WANTS_TORCHVISION
from families.vision_rows import rows_per_image, without_fill
from vlmscope.errors import ModelError
from vlmscope.model.loading.corrections import number_images_by_row
from vlmscope.model.loading.processors import load_processor
from vlmscope.prompt import chat_template

TOO_NEW = tuple(name for name, since in SINCE.items() if Version(VERSION) < Version(since))
RUNNABLE = tuple(name for name in BUILDERS if name not in WANTS_TIMM + WANTS_TORCHVISION + TOO_NEW)

QUESTIONS = ("Is there a cat in the image?", "What colour is it?")
WITHOUT_BOS = (
    "llava", "llava_next", "paligemma", "janus", "idefics2", "deepseek_vl", "deepseek_vl_hybrid",
    "granite4_vision",
)  # fmt: skip
"""Families with a BOS that their templates leave to the tokenizer or the processor."""
NO_BOS = ("ernie4_5_vl_moe", "exaone4_5", "kimi_k25")
"""Families whose tokenizer has a BOS that no prompt begins with."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One checkpoint, as a program would have it."""

    name: str
    model: Any
    processor: Any

    def ask(self, *questions: tuple[str, list[Image.Image]]) -> dict[str, Tensor]:
        """Return the inputs of a batch of questions, each with its images."""
        texts = [self.render(text, len(images)) for text, images in questions]
        bos = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=texts,
            images=[images for _, images in questions],
            add_special_tokens=not (bos and texts[0].startswith(bos)),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return {name: tensor for name, tensor in inputs.items() if name != "labels"}

    def render(self, question: str, images: int = 1) -> str:
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        return str(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=chat_template(self.processor),
                add_generation_prompt=True,
                tokenize=False,
            )
        )

    def see(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the encoder's rows and the last hidden state of the last token."""
        rows: list[Tensor] = []
        tower = self.model.get_encoder(modality="image")
        # The tensor, not the object around it: the library overwrites its fields later.
        handle = tower.register_forward_hook(
            lambda _module, _args, output: rows.append(output.last_hidden_state)
        )
        with torch.inference_mode():
            states = self.model(**inputs, output_hidden_states=True).hidden_states
        handle.remove()
        assert len(rows) == 1
        return without_fill(self.name, inputs, self.model.config, rows[0]), states[-1][:, -1]

    def generate(self, inputs: dict[str, Tensor], tokens: int = 3) -> list[list[int]]:
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return ids[:, inputs["input_ids"].shape[1] :].tolist()


def make_image(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


WIDE, TALL, THIRD = make_image(90, 66, 0), make_image(24, 80, 1), make_image(70, 40, 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in folders:
            folders[name] = BUILDERS[name](tmp_path_factory.mktemp("families") / name)
        return folders[name]

    return build


@pytest.fixture(scope="module", params=RUNNABLE)
def loaded(request: pytest.FixtureRequest, built: Callable[[str], Path]) -> Loaded:
    folder = built(request.param)
    model = load_weights(folder)
    if request.param == "hunyuan_vl":  # by itself it does depend on neighbours: see the module
        number_images_by_row(model.model)
    return Loaded(request.param, model, load_processor(folder))


def load_weights(folder: Path) -> Any:
    """Load as a program does; no weight may be missing or left over."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as KNOWN

    config = AutoConfig.from_pretrained(folder)
    auto = AutoModelForImageTextToText if type(config) in KNOWN else AutoModelForMultimodalLM
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def test_images_are_read_with_pil(loaded: Loaded) -> None:
    assert type(loaded.processor.image_processor).__name__.endswith("Pil")


def test_the_prompt_holds_one_bos_and_every_image_token(loaded: Loaded) -> None:
    tokenizer = loaded.processor.tokenizer
    inputs = loaded.ask((QUESTIONS[0], [WIDE]), (QUESTIONS[1], [TALL]))
    image = loaded.model.config.image_token_id
    assert ((inputs["input_ids"] == image).sum(1) > 1).all()
    if tokenizer.bos_token and tokenizer.bos_token != tokenizer.eos_token:  # Granite's ends turns
        count = int(loaded.name not in NO_BOS)
        assert (inputs["input_ids"] == tokenizer.bos_token_id).sum(1).tolist() == [count] * 2
    rendered = loaded.render(QUESTIONS[0])
    has_bos = bool(tokenizer.bos_token) and rendered.startswith(tokenizer.bos_token)
    assert has_bos == (bool(tokenizer.bos_token) and loaded.name not in WITHOUT_BOS + NO_BOS)


def test_neighbours_change_nothing(loaded: Loaded) -> None:
    """Two images of different size, two questions of different length, padded on the left."""
    asked = [(QUESTIONS[0], [WIDE]), (QUESTIONS[1], [TALL])]
    together = loaded.ask(*asked)
    assert together["attention_mask"][:, -1].all()
    _, states = loaded.see(together)
    answers = loaded.generate(together)
    stops = set(loaded.model.generation_config.eos_token_id)
    for index, question in enumerate(asked):
        alone = loaded.ask(question)
        torch.testing.assert_close(loaded.see(alone)[1][0], states[index], rtol=1e-4, atol=1e-4)
        answer = loaded.generate(alone)[0]
        assert answers[index][: len(answer)] == answer
        assert len(answer) == 3 or answer[-1] in stops


def test_the_image_and_the_question_change_the_answer(loaded: Loaded) -> None:
    _, states = loaded.see(loaded.ask((QUESTIONS[0], [WIDE])))
    for question, pixels in ((QUESTIONS[0], make_image(90, 66, 7)), ("Is there a rocket?", WIDE)):
        _, others = loaded.see(loaded.ask((question, [pixels])))
        assert float((states - others).abs().max()) > 0.1


def test_the_rows_of_every_image(loaded: Loaded) -> None:
    """A batch with one image, none, and two: the rows are those that each image has alone."""
    batch = loaded.ask((QUESTIONS[0], [WIDE]), ("Why?", []), ("Which one is it?", [TALL, THIRD]))
    rows, _ = loaded.see(batch)
    counts = rows_per_image(loaded.name, batch, loaded.model, loaded.processor.tokenizer)
    assert sum(counts) == len(rows)
    shares = rows.split(counts)
    if loaded.name == "llava_onevision":
        # With several images it looks at one square tile of each, filled up instead of stretched.
        both, _ = loaded.see(loaded.ask(("Why?", [TALL, THIRD])))
        alone = [loaded.see(loaded.ask(("Why?", [WIDE])))[0], *both.chunk(2)]
    else:
        alone = [loaded.see(loaded.ask(("Why?", [p])))[0] for p in (WIDE, TALL, THIRD)]
    for share, expected in zip(shares, alone, strict=True):
        torch.testing.assert_close(share, expected, rtol=1e-4, atol=1e-4)


def test_shapes_that_could_be_mixed_up_differ(loaded: Loaded) -> None:
    rows, states = loaded.see(loaded.ask((QUESTIONS[0], [WIDE]), (QUESTIONS[1], [TALL])))
    assert len({rows.shape[1], states.shape[1], len(rows)}) == 3 - loaded.name.startswith("glm4")
    # GLM-4.1V's encoder ends at the width of the decoder: its last step merges four patches.
    assert (rows.shape[1] == states.shape[1]) == loaded.name.startswith("glm4")


def test_some_answers_end_early(built: Callable[[str], Path]) -> None:
    folder = built("llava")
    loaded = Loaded("llava", load_weights(folder), load_processor(folder))
    asked = [(QUESTIONS[0], [make_image(40, 40, seed)]) for seed in range(24)]
    stops = set(loaded.model.generation_config.eos_token_id)
    ends = [bool(stops & set(answer)) for answer in loaded.generate(loaded.ask(*asked), tokens=8)]
    assert any(ends)
    assert not all(ends)


def test_the_same_weights_every_time(built: Callable[[str], Path], tmp_path: Path) -> None:
    again = BUILDERS["smolvlm"](tmp_path / "again")
    first = built("smolvlm") / "model.safetensors"
    assert (again / "model.safetensors").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", WANTS_TIMM)
def test_encoders_from_timm_cannot_be_built_here(name: str, tmp_path: Path) -> None:
    """timm imports torchvision, whose wheels do not load beside a CPU build of torch."""
    with pytest.raises(ImportError, match="timm"):
        BUILDERS[name](tmp_path / name)


@pytest.mark.first(2)
@pytest.mark.parametrize("name", WANTS_TORCHVISION)
def test_image_processors_for_torchvision_only(name: str, built: Callable[[str], Path]) -> None:
    """The weights load; the processor says in one line what it needs."""
    if name in TOO_NEW:
        with pytest.raises(ValueError, match=name):
            built(name)
        return
    folder = built(name)
    load_weights(folder)
    with pytest.raises(ModelError, match=r"needs torchvision.*pip install torchvision") as caught:
        load_processor(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_processor(built: Callable[[str], Path], tmp_path: Path) -> None:
    for file in built("llava").iterdir():
        if "processor" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="cannot load the processor") as caught:
        load_processor(tmp_path)
    assert "\n" not in str(caught.value)
