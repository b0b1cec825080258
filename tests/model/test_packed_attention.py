"""Attention within windows of one row: the library's numbers, in few calls, and with no mask."""

from __future__ import annotations

import inspect
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils.generic import is_flash_attention_requested

from vlmscope.model.attention import packed as packing
from vlmscope.model.attention import padded, switch
from vlmscope.model.attention.packed import PACKED, packed_attention
from vlmscope.model.computing import computing

WIDTH = 8

WINDOWS = [
    [9], [1], [1, 1, 1], [4, 4, 4], [4, 2, 4, 4, 3, 1], [64, 64, 64, 16, 64, 8], [3, 0, 2, 0],
    [1, 7],
]  # fmt: skip


class Attention(nn.Module):
    """What an implementation knows of the attention that calls it."""

    def __init__(self, groups: int = 1, *, is_causal: bool = False) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = is_causal


def states(
    lengths: list[int], heads: int = 4, key_heads: int = 4, width: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value as an encoder makes them: heads in front, by a transposition."""
    rng = torch.Generator().manual_seed(sum(lengths))
    query, key, value = (
        torch.randn(sum(lengths), n, width, generator=rng).transpose(0, 1).unsqueeze(0)
        for n in (heads, key_heads, key_heads)
    )
    return query, key, value


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def given_bounds(lengths: list[int]) -> dict[str, Any]:
    """Return what the library passes on beside the states."""
    cut = bounds(lengths)
    return {
        "cu_seq_lens_q": cut, "cu_seq_lens_k": cut, "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }  # fmt: skip


def window_by_window(
    module: nn.Module, parts: tuple[Tensor, ...], lengths: list[int], **options: Any
) -> Tensor:
    """What the library does with ``sdpa``; of an empty window it can make nothing."""
    cut = [part.split([length for length in lengths if length], dim=2) for part in parts]
    found = [
        sdpa_attention_forward(module, *window, None, **options)[0]
        for window in zip(*cut, strict=True)
    ]
    return torch.cat(found, dim=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shape of every query that went into torch's attention; a mask is refused."""
    seen: list[tuple[int, ...]] = []
    original = F.scaled_dot_product_attention

    def spy(query: Tensor, *rest: Any, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        assert attn_mask is None
        seen.append(tuple(query.shape))
        return original(query, *rest, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.first(16)
@pytest.mark.parametrize("lengths", WINDOWS, ids=str)
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("scaling", [None, WIDTH**-0.5, 0.2])
def test_windows_attend_as_in_the_library(
    lengths: list[int], heads: int, key_heads: int, scaling: float | None
) -> None:
    module, parts = Attention(heads // key_heads), states(lengths, heads, key_heads)
    found, weights = packed_attention(
        module, *parts, None, scaling=scaling, is_causal=False, **given_bounds(lengths)
    )
    expected = window_by_window(module, parts, lengths, scaling=scaling, is_causal=False)
    assert weights is None
    assert found.shape == (1, sum(lengths), heads, WIDTH)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20).filter(any))
@settings(max_examples=50, deadline=None)
def test_any_windows(lengths: list[int]) -> None:
    parts = states(lengths, 2, 2)
    found, _ = packed_attention(Attention(), *parts, None, **given_bounds(lengths))
    torch.testing.assert_close(
        found, window_by_window(Attention(), parts, lengths), rtol=1e-5, atol=1e-6
    )


def test_a_call_for_each_length_and_never_the_square(calls: list[tuple[int, ...]]) -> None:
    lengths = [64] * 20 + [16] + [64] * 20 + [8, 16]
    packed_attention(Attention(), *states(lengths), None, **given_bounds(lengths))
    assert calls == [(40, 4, 64, WIDTH), (2, 4, 16, WIDTH), (1, 4, 8, WIDTH)]


@pytest.mark.parametrize("lengths", [[3] * 7, [3, 1] * 7], ids=str)
def test_no_more_windows_in_a_call_than_a_kernel_takes(
    lengths: list[int], calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST_WINDOWS", 3)
    packing._groups.cache_clear()
    parts = states(lengths)
    found, _ = packed_attention(Attention(), *parts, None, **given_bounds(lengths))
    packing._groups.cache_clear()
    assert [shape[0] for shape in calls] == [3, 3, 1] * (len(set(lengths)))
    torch.testing.assert_close(found, window_by_window(Attention(), parts, lengths))


def test_windows_that_come_one_by_one_go_to_the_library() -> None:
    """An attention that passes no bounds on, with a mask or without, causal or not."""
    parts = states([6])
    for module in (Attention(), Attention(is_causal=True)):
        for mask in (None, torch.rand(1, 1, 6, 6) > 0.3):
            found, _ = packed_attention(module, *parts, mask, 0.0, 0.3)
            assert torch.equal(found, sdpa_attention_forward(module, *parts, mask, 0.0, 0.3)[0])


@pytest.mark.parametrize("named", [True, False])
def test_a_causal_attention_stays_causal(named: bool) -> None:
    lengths, module = [5, 3, 5], Attention(is_causal=not named)
    options = {"is_causal": True} if named else {}
    parts = states(lengths)
    found, _ = packed_attention(module, *parts, None, **options, **given_bounds(lengths))
    torch.testing.assert_close(found, window_by_window(module, parts, lengths, **options))
    full = window_by_window(module, parts, lengths, is_causal=False)
    assert float((found - full).abs().max()) > 1e-2


def test_a_module_that_does_not_say_is_causal_as_in_the_library() -> None:
    lengths, module, parts = [5, 3], nn.Module(), states([5, 3])
    found, _ = packed_attention(module, *parts, None, **given_bounds(lengths))
    torch.testing.assert_close(found, window_by_window(module, parts, lengths))


def test_dropout_is_not_forgotten() -> None:
    lengths, parts = [5, 3], states([5, 3])
    torch.manual_seed(3)
    found, _ = packed_attention(Attention(), *parts, None, 0.5, **given_bounds(lengths))
    torch.manual_seed(3)
    assert torch.equal(found, window_by_window(Attention(), parts, lengths, dropout=0.5))
    assert not torch.allclose(found, window_by_window(Attention(), parts, lengths))


def test_a_mask_is_not_forgotten() -> None:
    lengths, parts = [5, 3], states([5, 3])
    mask = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.4
    mask |= torch.eye(8, dtype=torch.bool)
    found, _ = packed_attention(Attention(), *parts, mask, **given_bounds(lengths))
    inside = torch.block_diag(torch.ones(5, 5), torch.ones(3, 3)).bool()
    expected = F.scaled_dot_product_attention(*parts, attn_mask=mask & inside).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_keys_may_have_windows_of_their_own() -> None:
    query, (_, key, value) = states([5, 3])[0], states([2, 7])
    taken = given_bounds([5, 3]) | {"cu_seq_lens_k": bounds([2, 7]), "max_length_k": 7}
    found, _ = packed_attention(Attention(), query, key, value, None, **taken)
    for own, seen in ((slice(5), slice(2)), (slice(5, 8), slice(2, 9))):
        expected = F.scaled_dot_product_attention(
            query[:, :, own], key[:, :, seen], value[:, :, seen]
        )
        torch.testing.assert_close(found[:, own], expected.transpose(1, 2))


def test_options_that_change_the_numbers_go_to_the_library() -> None:
    """A bias is added, and a cap of the products refused, or not known (transformers 5.17)."""
    lengths, parts = [4], states([4])
    for option in ({"position_bias": torch.linspace(0, 3, 16).view(1, 1, 4, 4)}, {"softcap": 30.0}):
        try:
            expected = window_by_window(Attention(), parts, lengths, **option)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)[:20]):
                packed_attention(Attention(), *parts, None, **option, **given_bounds(lengths))
        else:
            found, _ = packed_attention(
                Attention(), *parts, None, **option, **given_bounds(lengths)
            )
            torch.testing.assert_close(found, expected)


def test_windows_that_do_not_cover_the_row() -> None:
    with pytest.raises(ValueError, match="windows of 5 patches in total, the row has 4"):
        packed_attention(Attention(), *states([4]), None, **given_bounds([5]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_kinds_of_numbers(dtype: torch.dtype) -> None:
    lengths = [4, 2, 4]
    parts = tuple(part.to(dtype) for part in states(lengths))
    found, _ = packed_attention(Attention(), *parts, None, **given_bounds(lengths))
    assert found.dtype == dtype
    torch.testing.assert_close(found, window_by_window(Attention(), parts, lengths))


def test_gradients_pass() -> None:
    """Nobody asks for them; a model that is called with gradients on works all the same."""
    lengths = [4, 2, 4]
    parts = tuple(part.requires_grad_() for part in states(lengths))
    found, _ = packed_attention(Attention(), *parts, None, **given_bounds(lengths))
    expected = window_by_window(Attention(), parts, lengths)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), parts),
        torch.autograd.grad(expected.square().sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


class Silent(nn.Module):
    """Asks for "flash" and gives it nothing but positions, as Pixtral's in transformers 5.17."""

    config = SimpleNamespace(_attn_implementation="sdpa")

    def forward(self, states: Tensor) -> Tensor:
        attend: Any = packed_attention
        return attend(self, states, states, states, None, position_ids=None)[0]  # type: ignore[no-any-return]


class Passing(nn.Module):
    """Passes the bounds on."""

    config = SimpleNamespace(_attn_implementation="sdpa")

    def forward(self, states: Tensor, cut: Tensor) -> Tensor:
        return packed_attention(self, states, states, states, None, cu_seq_lens_q=cut)[0]


class Inherits(Passing):
    """The code is its base's."""

    config = SimpleNamespace(_attn_implementation="sdpa")


def test_which_modules_pass_the_bounds_on() -> None:
    """What has no source to look at is left to the library."""
    found: dict[str, Any] = {"nn": nn}
    exec("class Unseen(nn.Module):\n def forward(self, x): f(cu_seq_lens_q=x)", found)  # noqa: S102
    unseen = found["Unseen"]()
    unseen.config = object()
    tower = nn.ModuleList([Silent(), Passing(), Passing(), nn.Linear(1, 1), Inherits(), unseen])
    assert packing.packing_configurations(tower) == [Passing.config, Inherits.config]


def test_only_flash_and_no_version_of_it_is_in_the_name() -> None:
    config = SimpleNamespace(_attn_implementation=PACKED)
    assert is_flash_attention_requested(config)
    assert not is_flash_attention_requested(config, version=[2, 3, 4])


class Kernel:
    """Stands for torch's kernel, which needs a GPU: the same arguments, the same numbers."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.longest: list[int] = []
        self.splits: list[int | None] = []

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        num_splits: int | None = None,
    ) -> Tensor:
        if self.error is not None:
            raise self.error
        self.splits.append(num_splits)
        assert key.shape == value.shape
        assert (query.shape == key.shape) == (not enable_gqa)
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert max_q == max_k >= int(cu_seq_q.diff().max())
        self.longest.append(max_q)
        assert all(part.stride(-1) == 1 for part in (query, key, value))
        lengths = cu_seq_q.diff().tolist()
        parts = tuple(part.transpose(0, 1).unsqueeze(0) for part in (query, key, value))
        groups, causal = query.shape[1] // key.shape[1], window_size == (-1, 0)
        module = Attention(groups, is_causal=causal)
        return window_by_window(module, parts, lengths, scaling=scale)[0]


def is_asked(*_: Any, causal: bool = False) -> bool:
    """Return whether the kernel is used, as on a GPU."""
    return causal not in packing._broken


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(packing, "varlen_attn", made)
    monkeypatch.setattr(packing, "_broken", {})
    monkeypatch.setattr(packing, "_OPTIONS", frozenset({"scale", "window_size", "enable_gqa"}))
    monkeypatch.setattr(packing, "is_supported", is_asked)
    monkeypatch.setattr(padded, "is_supported", is_asked)
    return made


@pytest.mark.first(16)
@pytest.mark.parametrize("lengths", WINDOWS, ids=str)
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("left_out", ["", "max_length_q", "both"])
def test_one_call_of_the_kernel_for_all_windows(
    lengths: list[int], heads: int, key_heads: int, left_out: str, kernel: Kernel
) -> None:
    module, parts = Attention(heads // key_heads), states(lengths, heads, key_heads)
    taken = given_bounds(lengths)
    taken["cu_seq_lens_q"] = taken["cu_seq_lens_k"] = taken["cu_seq_lens_q"].long()
    for name in {"": (), "both": ("max_length_q", "max_length_k")}.get(left_out, (left_out,)):
        del taken[name]
    found, _ = packed_attention(module, *parts, None, **taken)
    assert kernel.longest == [max(lengths)]
    assert found.shape == (1, sum(lengths), heads, WIDTH)
    torch.testing.assert_close(found, window_by_window(module, parts, lengths))


@pytest.mark.parametrize(("hip", "asked"), [(None, 1), ("7.0", None)])
def test_kernels_are_planned_only_for_frequent_shapes(
    hip: str | None, asked: int | None, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``num_splits`` torch 2.14 does not use cuDNN; AMD's kernel refuses that option."""
    monkeypatch.setattr(switch, "_calls", Counter())
    monkeypatch.setattr(switch, "OFTEN", 2)
    monkeypatch.setattr(torch.version, "hip", hip)
    for option in ("num_splits", ""):
        monkeypatch.setattr(packing, "_OPTIONS", packing._OPTIONS - {"num_splits"} | {option})
        packed_attention(Attention(1), *states([3, 2], 2, 2), None, **given_bounds([3, 2]))
    monkeypatch.setattr(packing, "_OPTIONS", packing._OPTIONS | {"num_splits"})
    for lengths in ([3, 2], [4, 2]):
        packed_attention(Attention(1), *states(lengths, 2, 2), None, **given_bounds(lengths))
    assert kernel.splits == [asked, None, None, asked], (
        "another torch, the third time, another shape"
    )


@pytest.mark.parametrize("answer", ["right", "wrong", "error"])
def test_without_an_option_the_kernel_is_tried_with_fewer_heads_of_keys(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """As torch 2.11: its kernel supports it, and its function has no option for it."""
    heads: list[int] = []

    def older(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
        heads.append(key.shape[1])
        fewer = key.shape[1] != query.shape[1]
        if fewer and answer == "error":
            raise RuntimeError("fewer heads")
        found = kernel(query, key, *args, enable_gqa=fewer, **options)
        return found + 1 if fewer and answer == "wrong" else found

    packing._takes_fewer_heads.cache_clear()
    monkeypatch.setattr(packing, "varlen_attn", older)
    monkeypatch.setattr(packing, "_OPTIONS", frozenset({"scale", "window_size"}))
    module, parts = Attention(3), states([4, 2], 6, 2)
    bounds = torch.tensor([0, 4, 6], dtype=torch.int32)
    for _ in range(2):
        found = packing.varlen([part[0].transpose(0, 1) for part in parts], bounds, 4)
        assert found is not None
        torch.testing.assert_close(found[None], window_by_window(module, parts, [4, 2]))
    assert heads[:1] + heads[-2:] == [2, *([2, 2] if answer == "right" else [6, 6])]
    assert len(heads) == 2 + (1 if answer == "error" else 2)  # tried once
    packing._takes_fewer_heads.cache_clear()


def test_torchs_function_takes_these_arguments() -> None:
    """On tensors without numbers: the shapes that it would return, from arguments like ours."""
    packing.load_kernel()
    if packing.varlen_attn is None:
        pytest.fail("torch.nn.attention.varlen is gone, or torch is older than 2.10")
    inspect.signature(packing.varlen_attn).bind(*range(7))
    parts = [torch.empty(10, 4, 80, device="meta", dtype=torch.bfloat16) for _ in range(3)]
    cut = torch.empty(3, device="meta", dtype=torch.int32)
    assert packing.varlen_attn(*parts, cut, cut, 6, 6).shape == (10, 4, 80)


def test_a_kernel_that_fails_is_not_asked_again(kernel: Kernel) -> None:
    lengths, parts = [4, 2], states([4, 2])
    expected = window_by_window(Attention(), parts, lengths)
    kernel.error = RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
    with pytest.warns(RuntimeWarning, match="variable-length attention failed .*Ampere"):
        found, _ = packed_attention(Attention(), *parts, None, **given_bounds(lengths))
    torch.testing.assert_close(found, expected)
    kernel.error = None
    found, _ = packed_attention(Attention(), *parts, None, **given_bounds(lengths))
    torch.testing.assert_close(found, expected)
    assert kernel.longest == []


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: gone")]
)
def test_memory_and_a_dead_gpu_are_not_the_kernels_fault(kernel: Kernel, error: Exception) -> None:
    kernel.error = error
    with pytest.raises(type(error)):
        packed_attention(Attention(), *states([4]), None, **given_bounds([4]))
    assert packing._broken == {}


def on_gpu(width: int = 80, dtype: torch.dtype = torch.bfloat16, **other: Any) -> Any:
    return SimpleNamespace(**{"is_cuda": True, "dtype": dtype, "shape": (10, 4, width)} | other)


@pytest.mark.parametrize(
    ("query", "value", "scaling", "taken"),
    [
        (on_gpu(), on_gpu(), 80**-0.5, True),
        (on_gpu(), on_gpu(), None, True),
        (on_gpu(72, torch.float16), on_gpu(72), 72**-0.5, True),
        (on_gpu(256), on_gpu(256), None, True),
        (on_gpu(), on_gpu(), 0.2, True),
        (on_gpu(dtype=torch.float32), on_gpu(), None, False),
        (on_gpu(is_cuda=False), on_gpu(), None, False),
        (on_gpu(84), on_gpu(84), None, False),
        (on_gpu(264), on_gpu(264), None, False),
        (on_gpu(80), on_gpu(64), None, False),
    ],
)
def test_what_the_kernel_is_asked(
    query: Any, value: Any, scaling: float | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_broken", {})
    assert packing.is_supported(query, value, scaling) == taken
    assert packing.is_supported(query, value, scaling, causal=True) == taken
    monkeypatch.setattr(packing, "_OPTIONS", frozenset())  # torch 2.10
    assert packing.is_supported(query, value, scaling) == (taken and scaling != 0.2)
    monkeypatch.setattr(packing, "_OPTIONS", frozenset({"scale"}))
    for failed in (True, False):
        monkeypatch.setattr(packing, "_broken", {failed: "it failed"})
        assert not packing.is_supported(query, value, scaling, causal=failed)
        assert packing.is_supported(query, value, scaling, causal=not failed) == taken


def test_an_older_torch_batches_windows(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(packing, "load_kernel", lambda: None)
    monkeypatch.setattr(packing, "varlen_attn", None)
    packed_attention(Attention(), *states([4, 4]), None, **given_bounds([4, 4]))
    assert calls == [(2, 4, 4, WIDTH)]


@pytest.mark.exhaustive
def test_it_can_be_compiled_whole_while_a_model_computes(kernel: Kernel) -> None:
    """Nothing in it that the compiler must leave to Python: no break in the graph."""
    lengths, parts = [4, 2, 5], states([4, 2, 5])
    compiled = torch.compile(packed_attention, backend="eager", fullgraph=True, dynamic=True)
    op = torch.library.custom_op("vlmscope_test::varlen", mutates_args=())(_varlen_op)
    op.register_fake(lambda query, *_: torch.empty_like(query))
    with pytest.MonkeyPatch.context() as patch, computing():
        patch.setattr(packing, "varlen_attn", op)
        found, _ = compiled(
            Attention(), *parts, None, 0.0, WIDTH**-0.5, is_causal=False, **given_bounds(lengths)
        )
    torch.testing.assert_close(found, window_by_window(Attention(), parts, lengths))


def _varlen_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    same: Tensor,
    most: int,
    too: int,
    scale: float | None = None,
) -> Tensor:
    return Kernel()(query, key, value, cut, same, most, too, scale=scale).clone()
