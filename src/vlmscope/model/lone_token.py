"""An image of a single token: what the library makes of it may depend on the row's neighbours.

Mistral 3's class takes the batch dimension away from its projected image tokens with ``squeeze``,
and there is none: of one token in the whole batch it takes away the token. The row fails alone and
succeeds beside another. Here the projector gives such a token the dimension that is then taken.

Of an architecture that nobody described the smallest image is tried alone and beside another when
it is loaded. Where only a neighbour lets it pass, and this does not mend it, rows go one at a time:
they fail in every batch size alike.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from PIL.Image import Image, new
from torch import Tensor, nn

from vlmscope.model.batching import ERRORS
from vlmscope.model.computing import computing
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.prompt import encode, render

_PROJECTOR = "multi_modal_projector"
_QUESTION = "What is it?"
_SMALLEST, _OTHER = (1, 1), (64, 48)


def keep_lone_token(projector: nn.Module) -> Any:
    """Let a projector return a single token with a batch dimension; return the hook's handle."""
    return projector.register_forward_hook(_with_batch)


def _with_batch(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1:
        return output.unsqueeze(0)
    return None


def with_smallest_image(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return a model for which neighbours do not decide whether the smallest image passes."""
    if vlm.one_at_a_time:
        return vlm
    smallest, other = new("RGB", _SMALLEST), new("RGB", _OTHER, (90, 120, 200))
    if _passes(vlm, [smallest]) or not _passes(vlm, [smallest, other]):
        return vlm
    for name, module in vlm.model.named_modules():
        if name.endswith(_PROJECTOR):
            handle = keep_lone_token(module)
            if _passes(vlm, [smallest]):
                return vlm
            handle.remove()
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, vision_rows="whole"))


def _passes(vlm: VisionLanguageModel, images: list[Image]) -> bool:
    """Return whether a question about each of some images goes through the model."""
    try:
        text = render(vlm.processor, _QUESTION)
        made = encode(vlm.processor, [text] * len(images), [[image] for image in images])
        inputs = {name: tensor.to(vlm.device) for name, tensor in vlm.cast(made).items()}
        with computing():
            vlm.model.generate(**inputs, max_new_tokens=1)
    except ERRORS:
        return False
    return True
