"""How the research code of HALP (arXiv 2603.05465) read its eight models, as data.

Taken from its public code, alliedbrother/HALP_EACL at 342e35c. Each model had its own extraction
script, so ``layer_k`` and the three representations differ from model to model. ``--compat halp``
reads a model as its script did, if the script read a defined position of the model, and raises an
error if the script used an estimate of one. docs/halp.md is generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vlmscope.errors import InputError
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.schema import DEFAULT_POSITIONS, REPRESENTATIONS, CaptureSpec, LayerStates

ENCODER = "vision_encoder"
"""Where a vision-only vector is read that is a mean over the vision encoder's positions."""


@dataclass(frozen=True, slots=True)
class StoredVector:
    """What HALP stored under one of its three names."""

    what: str
    """Description of the vector."""
    position: str = ""
    """Our position of the vector: that of a token, or ``ENCODER``; empty if it is neither, but an
    accident of the code."""
    why: str = ""
    """If it differs from what vlmscope stores under that name: why."""


@dataclass(frozen=True, slots=True)
class HalpModel:
    """How HALP read one model."""

    title: str
    """The usual name of the model."""
    checkpoint: str
    """The checkpoint that the published numbers are for."""
    model_type: str
    """Our family; empty if transformers has no such architecture."""
    states: LayerStates
    """The hidden state that its ``layer_k`` is."""
    layers: tuple[int, ...]
    """The layers it stored."""
    dtype: str
    """The data type it computed in."""
    max_new_tokens: int
    """Its limit on the greedy answer."""
    vision_only: StoredVector
    """``vision_only_representation``."""
    vision_token: StoredVector
    """``vision_token_representation``."""
    query_token: StoredVector
    """``query_token_representation``."""
    answer: str = "the new tokens alone"
    """Which part of the generated text it stored."""
    vision_encoder: str = ""
    """Path of the module whose output it averaged, if that is not our vision encoder."""


_LAST_IMAGE = StoredVector("the last image token", "last_image_token")
_LAST_PROMPT = StoredVector("the last token of the prompt", "last_prompt_token")
_EIGHT_OF_32 = (0, 8, 16, 24, 31)
_SEVEN_OF_28 = (0, 7, 14, 21, 27)

HALP_MODELS = (
    HalpModel(
        title="Llama-3.2-Vision",
        checkpoint="meta-llama/Llama-3.2-11B-Vision-Instruct",
        model_type="mllama",
        states="hidden_states[k+1]",
        layers=(0, 10, 20, 30, 39),
        dtype="bfloat16",
        max_new_tokens=200,
        vision_only=StoredVector(
            "mean over all patches of all tiles, padding tiles included", ENCODER
        ),
        vision_token=_LAST_IMAGE,
        query_token=_LAST_PROMPT,
    ),
    HalpModel(
        title="Phi-4-multimodal",
        checkpoint="microsoft/Phi-4-multimodal-instruct",
        model_type="phi4_multimodal",
        states="hidden_states[k+1]",
        layers=_EIGHT_OF_32,
        dtype="the checkpoint's own; the answer under float16 autocast",
        max_new_tokens=200,
        vision_only=StoredVector(
            "mean of the processor's pixels over crops, channels and rows, 448 numbers",
            why="the processor's input_image_embeds are pixels; the encoder was not run",
        ),
        vision_token=_LAST_IMAGE,
        query_token=_LAST_PROMPT,
    ),
    HalpModel(
        title="Gemma 3",
        checkpoint="google/gemma-3-12b-it",
        model_type="gemma3",
        states="block output",
        layers=(0, 12, 24, 36, 47),
        dtype="bfloat16",
        max_new_tokens=200,
        vision_only=StoredVector("mean over the patches of the vision tower", ENCODER),
        vision_token=StoredVector(
            "token min(255, length // 2)",
            why="an estimate from the length; it is among the 256 image tokens and changes with "
            "the question",
        ),
        query_token=_LAST_PROMPT,
    ),
    HalpModel(
        title="Qwen2.5-VL",
        checkpoint="Qwen/Qwen2.5-VL-7B-Instruct",
        model_type="qwen2_5_vl",
        states="block output",
        layers=_SEVEN_OF_28,
        dtype="bfloat16",
        max_new_tokens=200,
        vision_only=StoredVector(
            "mean over the patches of the last block, before the merger", ENCODER
        ),
        vision_token=StoredVector(
            "token min(T x H x W, length // 2)",
            why="the grid counts patches before four become one token, so this is the middle of "
            "the prompt",
        ),
        query_token=_LAST_PROMPT,
    ),
    HalpModel(
        title="SmolVLM2",
        checkpoint="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        model_type="smolvlm",
        states="hidden_states[k]",
        layers=(0, 6, 12, 18, 23),
        dtype="float32",
        max_new_tokens=100,
        vision_only=StoredVector(
            "mean over the patches of all tiles, before the encoder's last layer norm",
            ENCODER,
            "the encoder's hidden_states[-1] is before that norm, its output after it",
        ),
        vision_token=StoredVector(
            "token min(max(200, length // 4), 800)",
            why="an estimate from the length; no token ids were used",
        ),
        query_token=_LAST_PROMPT,
        answer="prompt and answer in one text",
        vision_encoder="model.vision_model.encoder",
    ),
    HalpModel(
        title="LLaVA-NeXT",
        checkpoint="llava-hf/llama3-llava-next-8b-hf",
        model_type="llava_next",
        states="hidden_states[k]",
        layers=_EIGHT_OF_32,
        dtype="float16",
        max_new_tokens=100,
        vision_only=StoredVector(
            "mean over the channels of each projected image token, up to 2928 numbers",
            why="the mean is over channels and leaves one number per token, so the length depends "
            "on the image's shape; shorter ones were padded with zeros",
        ),
        vision_token=StoredVector(
            "token min(max(400, length // 3), 1500)",
            why="an estimate from the length; no token ids were used",
        ),
        query_token=_LAST_PROMPT,
        answer="the text after the last 'assistant'",
    ),
    HalpModel(
        title="FastVLM",
        checkpoint="apple/FastVLM-7B",
        model_type="fast_vlm",
        states="hidden_states[k]",
        layers=_SEVEN_OF_28,
        dtype="float16",
        max_new_tokens=100,
        vision_only=StoredVector("mean over the positions of the vision tower", ENCODER),
        vision_token=StoredVector(
            "the first image token",
            "first_image_token",
            "the index of the placeholder, which becomes many tokens in the expanded prompt",
        ),
        query_token=StoredVector(
            "the last index of the unexpanded prompt, in the expanded one",
            why="it is among the image tokens unless the text is long, so it does not depend on "
            "the question",
        ),
        answer="the text after the first 'assistant'",
    ),
    HalpModel(
        title="Molmo",
        checkpoint="allenai/Molmo-7B-O-0924",
        model_type="",
        states="block output",
        layers=_EIGHT_OF_32,
        dtype="bfloat16",
        max_new_tokens=200,
        vision_only=StoredVector(
            "mean over crops and patches after the projector",
            why="the vision backbone ends with the projector",
        ),
        vision_token=StoredVector(
            "the token after the last patch", why="image_input_idx.max() + 1"
        ),
        query_token=_LAST_PROMPT,
    ),
)
"""The eight models, grouped by the convention of their layers."""

BY_FAMILY: Mapping[str, HalpModel] = {
    each.model_type: each for each in HALP_MODELS if each.model_type
}
"""``config.model_type`` → HALP's way, for the seven models that transformers has."""


def halp_model_for(model_type: str, spec: CaptureSpec) -> HalpModel | None:
    """Return how HALP read a family if the spec asks for it; otherwise None.

    Args:
        model_type: ``Family.model_type`` of the model.
        spec: What to record.

    Raises:
        InputError: HALP had no such model, or a position of the spec is undefined in it.
    """
    if not spec.compat:
        return None
    original = BY_FAMILY.get(model_type)
    if original is None:
        known = ", ".join(each.title for each in BY_FAMILY.values())
        raise InputError(
            f"--compat {spec.compat}: {model_type} is not one of HALP's models that can be "
            f"loaded here ({known}); omit --compat"
        )
    for position in spec.positions:
        stored = stored_at(original, position)
        if not stored.position:
            rest = ",".join(positions_of(model_type))
            raise InputError(
                f"--compat {spec.compat}: the {REPRESENTATIONS[position]} of HALP's "
                f"{original.title} is {stored.what}: {stored.why}; give --positions {rest}, or "
                f"omit --compat for the {position.replace('_', ' ')} itself"
            )
    return original


def positions_of(model_type: str) -> tuple[str, ...]:
    """Return the positions that HALP read at a defined position of a family's prompt.

    >>> positions_of("gemma3")
    ('last_prompt_token',)
    """
    original = BY_FAMILY.get(model_type)
    if original is None:
        return ()
    return tuple(p for p in DEFAULT_POSITIONS if stored_at(original, p).position)


def stored_at(original: HalpModel, position: str) -> StoredVector:
    """Return what HALP stored under the name of one of ``DEFAULT_POSITIONS``."""
    return {
        "last_image_token": original.vision_token,
        "last_prompt_token": original.query_token,
    }[position]


def position_in_prompt(original: HalpModel | None, position: str) -> str:
    """Return the position in the prompt that a position's name refers to.

    >>> position_in_prompt(BY_FAMILY["fast_vlm"], "last_image_token")
    'first_image_token'
    >>> position_in_prompt(None, "last_image_token")
    'last_image_token'
    """
    return position if original is None else stored_at(original, position).position


def states_of(original: HalpModel | None) -> LayerStates:
    """Return which hidden state ``layer_k`` is."""
    return "hidden_states[k+1]" if original is None else original.states


def with_encoder_of(original: HalpModel | None, vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model with the vision encoder whose output HALP averaged."""
    if original is None or not original.vision_encoder:
        return vlm
    return replace(vlm, family=replace(vlm.family, vision_encoder=original.vision_encoder))


def halp_notes(original: HalpModel | None) -> tuple[str, ...]:
    """Return notes for the user: whether the vision-only vector differs from HALP's."""
    if original is None or original.vision_only.position:
        return ()
    return (
        f"vision_only_representation is vlmscope's own, the mean of the vision encoder's output; "
        f"HALP's {original.title} has the {original.vision_only.what}",
    )
