"""Steps of the gated delta rule by one kernel: what computes the same, while a pass runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

import plain_kernels
from vlmscope.model.elementwise import recurrence
from vlmscope.model.elementwise.recurrence import NAME, DeltaRuleKernel

LIBRARY = "transformers.models.made.modeling_made"
HEADS, KEYS, VALUES = 4, 8, 6


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As while a session computes."""
    with torch.inference_mode():
        yield


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the library that is made up, with the real function."""
    module = ModuleType(LIBRARY)
    monkeypatch.setitem(sys.modules, LIBRARY, module)
    setattr(module, NAME, torch_recurrent_gated_delta_rule)
    plain_kernels.CALLS.clear()
    return module


def kernel(kernels: Any = plain_kernels) -> DeltaRuleKernel:
    """Return the kernel of a model of that module."""
    made: nn.Module = type("Model", (nn.Module,), {"__module__": LIBRARY})()
    return DeltaRuleKernel(made, kernels)


def given(rows: int = 3, dtype: torch.dtype = torch.float32, tokens: int = 1) -> dict[str, Any]:
    """Return what the library calls a step with; vectors are slices of one projection."""
    draw = torch.Generator().manual_seed(rows)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    mixed = numbers(rows, tokens, HEADS * (2 * KEYS + VALUES)).to(dtype)
    parts = mixed.split([HEADS * KEYS, HEADS * KEYS, HEADS * VALUES], dim=-1)
    query, key, value = (part.unflatten(-1, (HEADS, -1)) for part in parts)
    return {
        "query": query, "key": key, "value": value,
        "g": -numbers(rows, tokens, HEADS).abs(),
        "beta": numbers(rows, tokens, HEADS).sigmoid().to(dtype),
        "initial_state": numbers(rows, HEADS, KEYS, VALUES),
        "output_final_state": True, "use_qk_l2norm_in_kernel": True, "cu_seqlens": None,
        "use_cache": True,
    }  # fmt: skip


def as_given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the same with a state of its own."""
    return options | {"initial_state": options["initial_state"].clone()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_changes_the_states_of_the_cache(library: ModuleType, dtype: torch.dtype) -> None:
    step, options = getattr(library, NAME), given(dtype=dtype)
    expected, after = step(**as_given(options))
    with kernel().in_place():
        found, state = getattr(library, NAME)(**options)
    assert plain_kernels.CALLS == ["delta_step"] * 3, "two of a trial"
    assert getattr(library, NAME) is step
    assert found.dtype == expected.dtype == dtype
    assert state is options["initial_state"], "the library copies it into itself, which is nothing"
    torch.testing.assert_close(state, after)
    torch.testing.assert_close(found, expected)


def test_the_states_of_some_slots_are_changed_alone(library: ModuleType) -> None:
    options = given(rows=2)
    slots = torch.ones(5, HEADS, KEYS, VALUES)
    slots[:2] = options["initial_state"]
    _, after = getattr(library, NAME)(**options)
    with kernel().in_place():
        getattr(library, NAME)(**options | {"initial_state": slots[:2]})
    torch.testing.assert_close(slots[:2], after)
    assert (slots[2:] == 1).all()
    assert plain_kernels.CALLS


def twice(*args: Any, **kwargs: Any) -> Any:
    output, state = torch_recurrent_gated_delta_rule(*args, **kwargs)
    return 2 * output, state


def no_decay(*args: Any, **kwargs: Any) -> Any:
    return torch_recurrent_gated_delta_rule(*args, **kwargs | {"g": 0 * kwargs["g"]})


def in_half(*args: Any, **kwargs: Any) -> Any:
    output, state = torch_recurrent_gated_delta_rule(*args, **kwargs)
    return output, state.bfloat16()


def old_state(*args: Any, **kwargs: Any) -> Any:
    return torch_recurrent_gated_delta_rule(*args, **kwargs)[0], kwargs["initial_state"]


@pytest.mark.parametrize("function", [twice, no_decay, in_half, old_state])
def test_a_function_that_computes_anything_else_is_called(
    library: ModuleType, function: Callable[..., Any]
) -> None:
    setattr(library, NAME, function)
    options = given()
    expected, after = function(**as_given(options))
    own = kernel()
    with own.in_place():
        for _ in range(2):
            found, state = getattr(library, NAME)(**as_given(options))
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(state, after)
    assert list(own._known.values()) == [False]


@pytest.mark.parametrize(
    "other",
    [
        {"use_qk_l2norm_in_kernel": False, "initial_state": None},
        {"output_final_state": False},
        {"seq_idx": torch.zeros(3, 1)},
        given(tokens=2) | {"initial_state": given()["initial_state"]},
        {"initial_state": given()["initial_state"].mT.contiguous().mT},
        {"initial_state": given(rows=1)["initial_state"].expand(3, -1, -1, -1)},
    ],
    ids=["no state", "state not asked for", "a tensor", "two tokens", "turned", "expanded"],
)
def test_another_call_is_the_librarys(library: ModuleType, other: dict[str, Any]) -> None:
    calls: list[dict[str, Any]] = []

    def function(*_: Any, **kwargs: Any) -> str:
        calls.append(kwargs)
        return "the library's"

    setattr(library, NAME, function)
    options = given() | other
    with kernel().in_place():
        assert getattr(library, NAME)(**options) == "the library's"
    assert calls == [options]
    assert plain_kernels.CALLS == []


def test_a_model_that_trains_meanwhile_keeps_the_function(library: ModuleType) -> None:
    with kernel().in_place(), torch.inference_mode(mode=False):
        getattr(library, NAME)(**given())
    assert plain_kernels.CALLS == []


def test_nothing_is_compared_while_a_graph_is_captured(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = kernel()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with own.in_place():
        getattr(library, NAME)(**given())
    assert not own._known
    assert plain_kernels.CALLS == []


def test_a_kernel_that_fails_leaves_the_rest_to_the_library(library: ModuleType) -> None:
    calls = 0

    def failing(*args: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("no registers")
        return plain_kernels.delta_step(*args, **options)

    kernels = ModuleType("failing")
    vars(kernels).update(vars(plain_kernels), delta_step=failing)
    options = given()
    expected, after = getattr(library, NAME)(**as_given(options))
    with kernel(kernels).in_place():
        with pytest.warns(RuntimeWarning, match="no registers"):
            found, state = getattr(library, NAME)(**as_given(options))
        getattr(library, NAME)(**as_given(options))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(state, after)
    assert calls == 3


def test_a_library_with_a_kernel_of_its_own_keeps_it(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrence, "find_spec", lambda name: object() if name == "fla" else None)
    with kernel().in_place():
        getattr(library, NAME)(**given())
    assert plain_kernels.CALLS == []
