"""Pad unfavourable widths of a vision encoder's MLPs with zeros to a multiple of 64.

The fast matrix products of a GPU in half precision need rows aligned to 16 bytes. Qwen2.5-VL's
encoder has MLPs of width 3,420 (6,840 bytes), for which cuBLAS uses kernels of an older generation;
SigLIP's 4,304 is a multiple of 16 bytes but not of a tile. With zeros up to 3,456 and 4,352 the
result is the same: a channel whose weights are zero adds nothing to the next layer.

The padded weights are created once, when a model is loaded, and used during a pass (``widened``).
Outside it the modules have their own weights, which are *views* of the padded ones: nothing is
stored twice, and ``reference.py`` runs the model as it was loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.model.computing import HALF, undone_at_exit
from vlmscope.model.vlm import VisionLanguageModel

MULTIPLE = 64
"""Channels. 128 bytes in half precision, a tile of the matrix products."""

_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("linear_fc1",), "linear_fc2"),
)
"""Layers of an MLP: those into its inner channels, and the one out of them."""

_WIDE = "_vlmscope_wide"
"""Attribute of a linear layer: its padded parameters."""


def pad_encoder_widths(vlm: VisionLanguageModel) -> int:
    """Pad the encoder's MLPs where that is faster: on GPUs, in half precision."""
    half = vlm.dtype in HALF
    return widen(vlm.vision_tower) if half and vlm.cuda_devices else 0


def widen(tower: nn.Module) -> int:
    """Create padded weights for the MLPs of a vision encoder; return the number of MLPs.

    Not changed are layers that are no plain ``nn.Linear`` (quantised, or with an adapter), and MLPs
    that contain more than these layers and an activation function.
    """
    count = 0
    for mlp in tower.modules():
        for into, out in _SHAPES:
            if _needs_padding(mlp, into, out):
                _widen(mlp, into, out)
                count += 1
                break
    return count


@contextmanager
def widened(vlm: VisionLanguageModel) -> Iterator[None]:
    """Let the encoder compute with the padded weights within the context."""
    changed: list[tuple[nn.Module, str, nn.Parameter]] = []

    def restore() -> None:
        for module, name, own in changed:
            module._parameters[name] = own

    with undone_at_exit(restore):
        for module in vlm.vision_tower.modules():
            for name, wide in module.__dict__.get(_WIDE, {}).items():
                own = module._parameters[name]
                # If the weight was replaced or moved to another device since, it is used unpadded.
                if own is not None and own.data_ptr() == wide.data_ptr():
                    changed.append((module, name, own))
                    module._parameters[name] = wide
        yield


def _needs_padding(mlp: nn.Module, into: tuple[str, ...], out: str) -> bool:
    """Return whether a module is an MLP of these layers with an inner width to be padded."""
    layers = [getattr(mlp, name, None) for name in (*into, out)]
    if not all(type(layer) is nn.Linear for layer in layers):
        return False
    parameters = {id(p) for layer in layers for p in layer.parameters()}  # type: ignore[union-attr]
    if {id(p) for p in mlp.parameters()} != parameters or list(mlp.buffers()):
        return False
    width = layers[-1].in_features  # type: ignore[union-attr]
    return (
        width % MULTIPLE != 0
        and all(
            layer.out_features == width  # type: ignore[union-attr]
            for layer in layers[:-1]
        )
    )


def _widen(mlp: nn.Module, into: tuple[str, ...], out: str) -> None:
    last: nn.Linear = getattr(mlp, out)
    missing = -last.in_features % MULTIPLE
    for name in into:
        first: nn.Linear = getattr(mlp, name)
        wide = {"weight": _fill(first, "weight", (0, 0, 0, missing))}
        if first.bias is not None:
            wide["bias"] = _fill(first, "bias", (0, missing))
        first.__dict__[_WIDE] = wide
    last.__dict__[_WIDE] = {"weight": _fill(last, "weight", (0, missing))}


def _fill(layer: nn.Linear, name: str, by: tuple[int, ...]) -> nn.Parameter:
    """Return a parameter padded with zeros, and make the layer's own a view of it."""
    own: nn.Parameter = getattr(layer, name)
    wide: Tensor = F.pad(own.detach(), by)
    own.data = wide[tuple(slice(size) for size in own.shape)]
    return nn.Parameter(wide, requires_grad=False)
