"""FlashAttention 4 for attention without a mask: which calls it takes, and what if it fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.integrations import sdpa_attention
from transformers.utils.generic import is_flash_attention_requested

from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention import flash
from vlmscope.model.attention.flash import OWN_WIDTH, attend, own_width_attention
from vlmscope.model.attention.tiles import splitting_attention
from vlmscope.model.computing import computing

WIDTH = 72


class Kernel:
    """Stands for the package's function, on ``[batch, tokens, heads, width]``."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.error: Exception | None = None
        self.added = 0.0

    def __call__(self, *states: Tensor, softmax_scale: float | None) -> Tensor:
        if self.error is not None:
            raise self.error
        self.widths.append(states[0].shape[-1])
        parts = [part.transpose(1, 2) for part in states]
        return ATTEND(*parts, scale=softmax_scale).transpose(1, 2).contiguous() + self.added


ATTEND = F.scaled_dot_product_attention


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(flash, "_load_kernel", lambda: made)
    monkeypatch.setattr(flash, "_is_supported", lambda _query: True)
    monkeypatch.setattr(flash, "_broken", [])
    monkeypatch.setattr(flash, "_compared", set())
    return made


@pytest.fixture
def by_library(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every call of the library's ``sdpa``."""
    seen: list[dict[str, Any]] = []
    original = sdpa_attention.sdpa_attention_forward

    def spy(*args: Any, **options: Any) -> Any:
        names = ("module", "query", "key", "value", "attention_mask", "dropout", "scaling")
        seen.append(dict(zip(names, args, strict=True)) | options)
        return original(*args, **options)

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", spy)
    return seen


class Attention(nn.Module):
    def __init__(self, *, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.num_key_value_groups = 1


def states(
    width: int = WIDTH, *, heads: Sequence[int] = (2, 2), tokens: Sequence[int] = (9, 9)
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value as an encoder makes them."""
    rng = torch.Generator().manual_seed(width)
    query, key, value = (
        torch.randn(2, tokens[i], heads[i], width, generator=rng).transpose(1, 2) for i in (0, 1, 1)
    )
    return query, key, value


@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("options", [{}, {"is_causal": False, "output_attentions": False}])
def test_a_plain_call(
    kernel: Kernel, by_library: list[Any], scaling: float | None, options: dict[str, Any]
) -> None:
    parts = states()
    found, weights = own_width_attention(Attention(), *parts, None, scaling=scaling, **options)
    assert (kernel.widths, by_library, weights) == ([WIDTH], [], None)
    assert found.is_contiguous()
    torch.testing.assert_close(found, ATTEND(*parts, scale=scaling).transpose(1, 2))


MASK = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("parts", "mask", "options", "module"),
    [
        (states(), MASK, {}, Attention()),
        (states(), None, {"dropout": 0.5}, Attention()),
        (states(), None, {"is_causal": True}, Attention()),
        (states(), None, {}, Attention(is_causal=True)),
        (states(), None, {"is_causal": None}, nn.Module()),
        (states(), None, {"position_bias": torch.randn(1, 2, 9, 9)}, Attention()),
        (states(), None, {"cache": object()}, Attention()),
        (states(), None, {"output_attentions": True}, Attention()),
        (states(tokens=(9, 4)), None, {}, Attention()),
        (states(heads=(2, 1)), None, {}, Attention()),
        (states(64), None, {}, Attention()),
        (states(76), None, {}, Attention()),
    ],
    ids=lambda case: str(list(case)) if isinstance(case, dict) else None,
)
def test_every_other_call_is_the_librarys(
    kernel: Kernel,
    by_library: list[dict[str, Any]],
    parts: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    options: dict[str, Any],
    module: nn.Module,
) -> None:
    module.num_key_value_groups = parts[0].shape[1] // parts[1].shape[1]
    own_width_attention(module, *parts, mask, scaling=0.3, **options)
    assert kernel.widths == []
    [given] = by_library
    expected = {"module": module, "attention_mask": mask, "dropout": 0.0, "scaling": 0.3}
    expected |= dict(zip(("query", "key", "value"), parts, strict=True)) | options
    assert given.keys() == expected.keys()
    assert all(given[name] is expected[name] for name in given if name not in ("dropout",))
    assert given["dropout"] == expected["dropout"]


def test_a_cap_of_the_scores_is_the_librarys_matter(
    kernel: Kernel, by_library: list[dict[str, Any]]
) -> None:
    """It raises an error, or ignores it before 5.18."""
    with suppress(ValueError):
        own_width_attention(Attention(), *states(), None, softcap=30.0)
    assert kernel.widths == []
    assert by_library[0]["softcap"] == 30.0


def test_the_library_does_not_take_it_for_flash_attention() -> None:
    """It would pass bounds of packed images, and no masks."""
    assert not is_flash_attention_requested(requested_attention_implementation=OWN_WIDTH)


@pytest.mark.exhaustive
def test_a_compiled_encoder_attends_as_the_library(
    kernel: Kernel, by_library: list[dict[str, Any]]
) -> None:
    parts = states()
    compiled = torch.compile(own_width_attention, backend="eager", fullgraph=True)
    found, _ = compiled(Attention(), *parts, None, scaling=0.3, is_causal=False)
    assert kernel.widths == []
    torch.testing.assert_close(found, ATTEND(*parts, scale=0.3).transpose(1, 2))


def test_another_thread_must_hold_the_lock(kernel: Kernel) -> None:
    with computing(), ThreadPoolExecutor(1) as other:
        call = other.submit(own_width_attention, Attention(), *states(), None)
        with pytest.raises(InputError, match="model_lock"):
            call.result(10)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: gone")]
)
def test_memory_and_a_dead_gpu_are_not_the_kernels_fault(kernel: Kernel, error: Exception) -> None:
    kernel.error = error
    with pytest.raises(type(error)):
        attend(*states(), None)
    assert flash._broken == []


def test_a_kernel_that_fails(kernel: Kernel, by_library: list[dict[str, Any]]) -> None:
    parts, kernel.error = states(), AssertionError("(72, 72) is not supported")
    with pytest.warns(RuntimeWarning, match="flash-attn-4 failed .*72.* torch's attention"):
        found = attend(*parts, None)
    torch.testing.assert_close(found, ATTEND(*parts))
    kernel.error = None
    attend(*parts, None)
    own_width_attention(Attention(), *parts, None)
    assert kernel.widths == []
    assert len(by_library) == 1


def test_the_first_result_of_every_width_is_compared(kernel: Kernel) -> None:
    attend(*states(), None)
    kernel.added = 1.0
    attend(*states(), None)  # of a width whose result was right
    with pytest.warns(RuntimeWarning, match="heads of 80 differs from torch's"):
        found = attend(*states(80), None)
    torch.testing.assert_close(found, ATTEND(*states(80)))
    assert kernel.widths == [WIDTH, WIDTH, 80]


@pytest.mark.parametrize("added", [float("nan"), float("inf")])
def test_a_result_that_is_no_number(kernel: Kernel, added: float) -> None:
    kernel.added = added
    with pytest.warns(RuntimeWarning, match="differs"):
        assert attend(*states(), None).isfinite().all()


def test_a_model_that_computes_no_numbers_proves_nothing(kernel: Kernel) -> None:
    query, key, value = states()
    assert attend(query, key, value * float("nan"), None).isnan().all()
    assert (flash._broken, flash._compared) == ([], set())
    attend(query, key, value, None)
    assert flash._compared == {(WIDTH, torch.float32)}


def on_gpu(
    width: int = WIDTH, dtype: torch.dtype = torch.bfloat16, *, index: int = 0, rows: int = 2
) -> Any:
    device = SimpleNamespace(index=index, type="cuda")
    count = rows * 16 * 729 * width
    return SimpleNamespace(
        is_cuda=True, dtype=dtype, device=device, shape=(rows, 16, 729, width), numel=lambda: count
    )


@pytest.mark.parametrize(
    ("query", "capability", "supported"),
    [
        (on_gpu(), (9, 0), True),
        (on_gpu(80, torch.float16), (10, 0), True),
        (on_gpu(), (8, 9), False),
        (on_gpu(dtype=torch.float32), (9, 0), False),
        (on_gpu(76), (9, 0), False),
        (on_gpu(192), (9, 0), True),
        (on_gpu(192), (10, 0), False),
        (on_gpu(264), (9, 0), False),
        (on_gpu(index=1), (9, 0), False),
        (on_gpu(rows=2600), (9, 0), False),
        (torch.zeros(2, 16, 729, WIDTH, dtype=torch.bfloat16), (9, 0), False),
    ],
)
def test_what_the_kernel_supports(
    query: Any, capability: tuple[int, int], supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert flash._is_supported(query) == supported


def test_it_is_imported_only_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("imported")

    monkeypatch.setattr(flash, "_load_kernel", fail)
    own_width_attention(Attention(), *states(), None)
    attend(*states(), None)


@pytest.mark.parametrize("error", [ImportError, OSError("libcuda"), None])
def test_a_package_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    class Package:
        def __getattr__(self, _name: str) -> Any:
            if error is not None:
                raise error
            return ATTEND

    monkeypatch.setitem(sys.modules, "flash_attn", Package())
    monkeypatch.setitem(sys.modules, "flash_attn.cute", Package())
    flash._load_kernel.cache_clear()
    try:
        assert flash._load_kernel() is (None if error is not None else ATTEND)
    finally:
        flash._load_kernel.cache_clear()


def test_tiles_attend_with_it(vlm: VisionLanguageModel, kernel: Kernel) -> None:
    """Llama-3.2-Vision's encoder: one call a layer for an image that fills all tiles."""
    config = vlm.model.config.vision_config
    edge, rng = config.image_size, torch.Generator().manual_seed(0)
    inputs = {
        "pixel_values": torch.randn(1, 1, 4, 3, edge, edge, generator=rng),
        "aspect_ratio_ids": torch.tensor([[len(config.supported_aspect_ratios) - 1]]),
        "aspect_ratio_mask": torch.ones(1, 1, 4, dtype=torch.long),
    }
    with torch.inference_mode():
        expected = vlm.vision_encoder(**inputs).last_hidden_state
        with splitting_attention(vlm, inputs):
            found = vlm.vision_encoder(**inputs).last_hidden_state
    assert len(kernel.widths) == config.num_hidden_layers + config.num_global_layers
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "rows", "worth"),
    [
        ({}, flash.ROWS_FOR_KERNEL, True),
        ({}, flash.ROWS_FOR_KERNEL - 1, False),
        ({"cuda_devices": ()}, 10**6, False),
        ({"cuda_devices": (0, 1)}, 10**6, False),
        ({"dtype": torch.float32}, 10**6, False),
        ({"quantization": "4bit"}, 10**6, False),
        ({"adapter": "lora"}, 10**6, False),
    ],
)
def test_where_compiling_the_kernel_pays(changes: dict[str, Any], rows: int, worth: bool) -> None:
    usual = {"cuda_devices": (0,), "dtype": torch.bfloat16, "quantization": "", "adapter": None}
    vlm: Any = SimpleNamespace(**usual | changes)
    assert flash.worth_own_width(vlm, rows) == worth
