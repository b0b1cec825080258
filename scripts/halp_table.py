"""Write the tables of docs/halp.md from ``vlmscope.model.halp``.

    python scripts/halp_table.py

The text between the two markers of the page is replaced. A test compares the page with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlmscope.model.halp import ENCODER, HALP_MODELS, HalpModel, StoredVector

PAGE = Path(__file__).parent.parent / "docs" / "halp.md"
BEGIN = "<!-- Begin of what scripts/halp_table.py wrote -->"
END = "<!-- End of what scripts/halp_table.py wrote -->"

NOT_LOADED = "cannot be loaded"
LAYER_K = {
    "hidden_states[k+1]": "`hidden_states[k+1]`, the last one after the final norm",
    "block output": "the output of block k, the last one before the final norm",
    "hidden_states[k]": "`hidden_states[k]`, the input of block k; `layer_0` is the embeddings",
}
OUR_LAYERS = LAYER_K["hidden_states[k+1]"]
WHY_LAYERS = {
    "hidden_states[k+1]": "",
    "block output": "only the last layer differs, by the final norm",
    "hidden_states[k]": "one block earlier; its `layer_k` is our `layer_(k-1)`",
}
OURS = {
    "vision_only_representation": (ENCODER, "mean over all positions of the vision encoder"),
    "vision_token_representation": ("last_image_token", "the last image token"),
    "query_token_representation": ("last_prompt_token", "the last token of the prompt"),
}
"""Representation → the position at which vlmscope reads it, and its description."""


def stored(original: HalpModel, representation: str) -> StoredVector:
    """Return what HALP stored under a name."""
    found: StoredVector = getattr(original, representation.removesuffix("_representation"))
    return found


def effect(original: HalpModel, representation: str) -> str:
    """Return the effect of ``--compat halp`` on one representation."""
    position, own = (
        stored(original, representation).position,
        representation == "vision_only_representation",
    )
    if not original.model_type:
        return NOT_LOADED
    if not position:
        return "vlmscope's, with a note" if own else "refused"
    if position == OURS[representation][0] and not (own and original.vision_encoder):
        return "the same"
    return "HALP's"


def overview() -> Iterator[str]:
    """Yield the lines of the table of all models."""
    yield "| model | `layer_k` | vision-only | vision token | query token |"
    yield "| --- | --- | --- | --- | --- |"
    for original in HALP_MODELS:
        layers = "the same" if original.states == "hidden_states[k+1]" else "HALP's"
        if not original.model_type:
            layers = NOT_LOADED
        effects = (effect(original, representation) for representation in OURS)
        yield f"| {original.title} | {layers} | {' | '.join(effects)} |"


def section(original: HalpModel) -> Iterator[str]:
    """Yield the lines about one model."""
    family = f"`{original.model_type}`" if original.model_type else "none: remote code"
    numbers = ", ".join(map(str, original.layers))
    yield f"### {original.title}"
    yield ""
    yield f"`{original.checkpoint}`; family in transformers: {family}."
    yield ""
    yield "| | HALP | vlmscope | why they differ | `--compat halp` |"
    yield "| --- | --- | --- | --- | --- |"
    same = original.states == "hidden_states[k+1]"
    done = ("the same" if same else "HALP's") if original.model_type else NOT_LOADED
    yield (
        f"| `layer_k` | {LAYER_K[original.states]} | {OUR_LAYERS} | {WHY_LAYERS[original.states]} "
        f"| {done} |"
    )
    for name, (_, ours) in OURS.items():
        found = stored(original, name)
        yield f"| `{name}` | {found.what} | {ours} | {found.why} | {effect(original, name)} |"
    yield f"| layers | {numbers} | the same by default | | as given by `--layers` |"
    yield (
        f"| answer | greedy, up to {original.max_new_tokens} tokens; stored: {original.answer} | "
        "greedy, up to 200 tokens; stored: the new tokens alone | "
        "| as given by `--max-new-tokens` |"
    )
    yield f"| computed in | {original.dtype} | bfloat16 on a GPU | | as given by `--dtype` |"


def tables() -> str:
    """Return all tables, including the markers."""
    lines = [BEGIN, "", *overview(), "", "## Model by model", ""]
    for original in HALP_MODELS:
        lines += [*section(original), ""]
    return "\n".join([*lines, END])


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(head + tables() + tail, "utf-8")
