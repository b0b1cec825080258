"""A step of linear attention by one kernel, which reads and writes each row's state once.

The gated delta rule (Qwen3.5) keeps a matrix per head and row, 2 MB per row and layer. For one
token the library reads or writes it fourteen times: factor, product with the key, sum, outer
product, addition, product with the query, sum, and the copy into the cache, each with a tensor of
its own. The kernel changes the cache's own tensor.

As with rotary embeddings, it is tried with made-up numbers for each combination of types and sizes
that it is called with. If ``flash-linear-attention`` is installed, the library uses a kernel of it
already. Half precision on one GPU only; the states are in float32 all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.model.computing import replacing_globals
from vlmscope.model.elementwise.trial import is_same, made_up, note_failure, raise_if_fatal

Step = Callable[..., tuple[Tensor, Tensor]]
"""Queries, keys, values, decay, beta and the states of one token → its output and new states."""

NAME = "torch_recurrent_gated_delta_rule"
"""The library's function."""

_TENSORS = ("query", "key", "value", "g", "beta", "initial_state")
_NORMALIZED, _RETURNS = "use_qk_l2norm_in_kernel", "output_final_state"


class DeltaRuleKernel:
    """The functions of a model that compute a step of the gated delta rule.

    Args:
        model: The model.
        kernels: The module ``triton_kernels``.
    """

    def __init__(self, model: nn.Module, kernels: ModuleType) -> None:
        self._kernels = kernels
        self._known: dict[Any, bool] = {}
        self._device = next((own.device for own in model.parameters()), None)
        self._functions: list[tuple[dict[str, Any], str, Step]] = []
        if find_spec("fla") is not None:
            return
        for name in sorted({type(module).__module__ for module in model.modules()}):
            space = vars(sys.modules[name]) if name.startswith("transformers.models.") else {}
            if NAME in space:
                self._functions.append((space, NAME, partial(self._step, space[NAME])))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the kernel within the context."""
        with replacing_globals(self._functions):
            yield

    def _step(self, function: Step, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Compute a step by the kernel, or by the library's function if results may differ."""
        given = _given(args, kwargs)
        # The function is the library's, so others may call it, as to train another model.
        if given is None or not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        tensors, normalized = given
        elsewhere = any(self._device not in {None, each.device} for each in tensors)
        if elsewhere or not self._suits(*tensors):
            return function(*args, **kwargs)
        sizes = tensors[0].shape[2:], tensors[5].shape[1:], *(each.dtype for each in tensors)
        key = (function, normalized, *sizes)
        if key not in self._known:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                return function(*args, **kwargs)  # a comparison waits for the GPU
            self._known[key] = self._agrees(function, tensors, normalized=normalized)
        if not self._known[key]:
            return function(*args, **kwargs)
        try:
            return self._computed(tensors, normalized=normalized)
        except Exception as error:  # noqa: BLE001 - the library has its own function
            note_failure(error)
            self._known[key] = False
            return function(*args, **kwargs)

    def _suits(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor
    ) -> bool:
        """Return whether the kernel can compute this step."""
        rows, heads, keys, values = state.shape
        of_keys, of_values = (rows, 1, query.shape[2], keys), (rows, 1, heads, values)
        return (
            query.shape == key.shape == of_keys
            and value.shape == of_values
            and decay.shape == beta.shape == (rows, 1, heads)
            and heads % query.shape[2] == 0
            and keys <= self._kernels.MOST_KEYS
            and state.dtype == torch.float32
            and state.is_contiguous()
        )

    def _computed(self, tensors: tuple[Tensor, ...], *, normalized: bool) -> tuple[Tensor, Tensor]:
        """Return the output and the states, which are those given, changed."""
        *of_token, state = tensors
        *vectors, decay, beta = (each.squeeze(1) for each in of_token)
        query, key, value = (_in_rows(each) for each in vectors)
        output = self._kernels.delta_step(
            query, key, value, decay.contiguous(), beta.contiguous(), state, normalized=normalized
        )
        return output.unsqueeze(1), state

    def _agrees(self, function: Step, like: tuple[Tensor, ...], *, normalized: bool) -> bool:
        """Return whether the kernel's results are those of the function, for made-up numbers."""
        with torch.no_grad():
            for half in (False, True):
                made = _made_up(like, half=half)
                try:
                    *of_token, state = made
                    options = {_NORMALIZED: normalized, _RETURNS: True}
                    expected = function(*of_token, initial_state=state.clone(), **options)
                    found = self._computed(made, normalized=normalized)
                except Exception as error:  # noqa: BLE001 - it wants other numbers
                    raise_if_fatal(error)
                    return False
                if not all(is_same(*pair) for pair in zip(found, expected, strict=True)):
                    return False
        return True


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Tensor, ...], bool] | None:
    """Return what a step is called with, and whether to normalize; None for anything unknown.

    The library passes the options of the model's call too, of which only tensors could matter.
    """
    given = dict(zip(_TENSORS, args, strict=False)) | kwargs
    tensors = tuple(given.pop(name, None) for name in _TENSORS)
    normalized, returns = given.pop(_NORMALIZED, False), given.pop(_RETURNS, False)
    if (
        not returns
        or len(args) > len(_TENSORS)
        or not all(isinstance(each, Tensor) for each in tensors)
        or any(isinstance(each, Tensor) for each in given.values())
        or [each.dim() for each in tensors] != [4, 4, 4, 3, 3, 4]
    ):
        return None
    return tensors, bool(normalized)


def _in_rows(vectors: Tensor) -> Tensor:
    """Return vectors ``[rows, heads, width]`` whose last two dimensions are contiguous."""
    return vectors if vectors[:1].is_contiguous() else vectors.contiguous()


def _made_up(like: tuple[Tensor, ...], *, half: bool) -> tuple[Tensor, ...]:
    """Return made-up numbers for two rows of a step, in the given types or in float32."""
    made = [
        made_up((2, *each.shape[1:]), each.device, seed).to(each.dtype if half else torch.float32)
        for seed, each in enumerate(like)
    ]
    made[3] = -made[3].abs()  # a state decays
    made[4] = made[4].sigmoid()
    return tuple(made)
