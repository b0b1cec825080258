"""A double of a GPU: tensors of the CPU that say they are on ``cuda:0``.

Every operation goes through ``Double``, which computes it with the tensors inside. As CUDA does, it
refuses an operation with a tensor of the CPU and one of the device. And it notes each operation for
which the host would wait until the device has computed everything: a value that is read, a shape
that depends on values, a copy that is not from pinned memory.

Its limits: kernels that exist on GPUs alone are not run, and neither is half precision, for which
vlmscope uses them. And the time that something takes is not that of a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention import packed

GPU = torch.device("cuda", 0)

CPU = torch.device("cpu")

READS = ("item", "_local_scalar_dense", "is_nonzero", "equal", "allclose")
"""Operations that return a value."""

SHAPED = (
    "nonzero", "nonzero_numpy", "masked_select", "unique_dim", "_unique", "_unique2",
    "unique_consecutive", "unique_dim_consecutive", "argwhere", "bincount", "histc",
)  # fmt: skip
"""Operations whose result has as many entries as the values say."""

COPIES = ("to", "_to_copy", "copy_", "copy")
"""Operations between devices."""

FREE = (*COPIES, "detach", "alias", "view", "is_pinned", "size", "stride", "lift_fresh")
"""Operations that are no work of an encoder or block, although a weight is their argument."""

_TORCH = str(Path(torch.__file__).parent)


class OnDevice(Tensor):
    """A tensor of the double's device.

    Args:
        inner: Its numbers, on the CPU.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=GPU,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner
        self.is_weight = False

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(each, Tensor) and _is_mapped(each) for each in parts):
            return super().__getitem__(index)  # by vmap, which the library replaces it for
        return wrapped(self.inner[_index(index)], [self])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, OnDevice) and value.dim():
            _now.add("setitem")
        self.inner[_index(index)] = _inner(value)

    def __invert__(self) -> Any:
        return torch.bitwise_not(self)

    def contiguous(self, *, memory_format: Any = torch.contiguous_format) -> Any:
        return torch.ops.aten.contiguous(self, memory_format=memory_format)

    def copy_(self, source: Any, non_blocking: Any = False) -> Any:
        return torch.ops.aten.copy_(self, source, non_blocking)

    def item(self) -> Any:
        _now.add("item")
        return self.inner.item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        found = torch.ops.aten.nonzero(self)
        return found.unbind(1) if as_tuple else found

    def tolist(self) -> Any:
        _now.add("tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"a tensor of the device becomes an array, by {_caller()}")

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return compute(func, args, kwargs or {})


@dataclass(frozen=True)
class Wait:
    """An operation for which the host waits."""

    name: str
    where: str
    """File, line and function that called it."""
    before: bool
    """Whether nothing of a vision encoder or of a block was launched before it."""


@dataclass
class Waits:
    """What the host waited for."""

    found: list[Wait] = field(default_factory=list)
    launched: bool = False
    """Whether something of a vision encoder or of a block was launched."""

    def add(self, name: str) -> None:
        self.found.append(Wait(name, _caller(), not self.launched))

    def restart(self) -> None:
        self.found.clear()
        self.launched = False


_now = Waits()
"""Those since the last ``restart``."""


def _caller() -> str:
    """Return the innermost function that is neither torch's nor of this file."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_TORCH) and name != __file__ and "<" not in name:
            short = "/".join(Path(name).parts[-2:])
            return f"{short}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "unknown"


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation of torch, on the device if that is asked for or its tensors are there.

    Raises:
        RuntimeError: Its tensors are on different devices.
    """
    name = func._schema.name.removeprefix("aten::")
    flat, spec = tree_flatten((args, kwargs))
    own = [each for each in flat if isinstance(each, OnDevice)]
    asked = _asked(name, args, kwargs)
    there = bool(own) if asked is None else asked.type == "cuda"
    if not own and not there:
        return func(*args, **kwargs)
    others = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, OnDevice)]
    if name in COPIES:
        if (others and there) or (own and not there) or (name in {"copy_", "copy"} and others):
            _note_copy(name, flat, args, kwargs)
    elif own and any(each.dim() for each in others):
        shapes = [tuple(each.shape) for each in others]
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, found those of shapes "
            f"{shapes} on the CPU, called by {_caller()}"
        )
    if own and _reads(name, args, kwargs):
        _now.add(name)
    if name not in FREE and any(each.is_weight for each in own):
        _now.launched = True
    flat = [CPU if isinstance(each, torch.device) else _inner(each) for each in flat]
    if name == "histc":  # of whole numbers on a GPU alone
        flat[0] = flat[0].float()
    given, named = tree_unflatten(flat, spec)
    if named.get("pin_memory"):
        named["pin_memory"] = False
    return wrapped(func(*given, **named), own) if there else func(*given, **named)


def _asked(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """Return the device that the result is to be on, if it is said."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    named = [each for each in args if isinstance(each, torch.device)]
    if named:
        return named[0]
    if name in {"copy_", "copy"}:
        return args[0].device  # type: ignore[no-any-return]
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        return args[1].device  # ``to(other)``
    return None


def _note_copy(name: str, flat: Any, args: Any, kwargs: Any) -> None:
    """Note a copy between devices, unless it is one that the host does not wait for."""
    source = args[1] if name in {"copy_", "copy"} else args[0]
    target = args[0] if name in {"copy_", "copy"} else None
    blocking = not (kwargs.get("non_blocking") or any(each is True for each in flat))
    on_host = target if isinstance(source, OnDevice) else source
    if name == "copy_" and not isinstance(source, OnDevice) and not source.dim():
        return  # a number, which is passed to a kernel
    if not source.numel():
        return
    if blocking or on_host is None or not is_pinned(on_host):
        _now.add(name)


def _reads(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether the host waits for an operation on tensors of the device."""
    if name in READS or name in SHAPED:
        return True
    if name == "repeat_interleave":
        counts = [each for each in (*args, *kwargs.values()) if isinstance(each, OnDevice)]
        of_tensor = len(counts) > 1 or len(args) == 1
        return of_tensor and kwargs.get("output_size") is None
    if name == "one_hot":
        return len(args) < 2 and kwargs.get("num_classes", -1) == -1
    if name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
        return _waits_for_index(tuple(args[1]))
    return name == "where" and len(args) == 1


def _is_mapped(tensor: Tensor) -> bool:
    """Return whether a tensor is one of vmap around those of the device."""
    return tensor.device.type == "cuda" and not isinstance(tensor, OnDevice)


def _index(index: Any) -> Any:
    """Return an index for the tensor inside."""
    if _waits_for_index(index):
        _now.add("index")
    if isinstance(index, tuple):
        return tuple(_plain(each) for each in index)
    return _plain(index)


def _plain(index: Any) -> Any:
    if isinstance(index, slice):
        parts = (index.start, index.stop, index.step)
        return slice(*(int(each) if isinstance(each, OnDevice) else each for each in parts))
    return [_inner(each) for each in index] if isinstance(index, list) else _inner(index)


def _waits_for_index(index: Any) -> bool:
    """Return whether the host waits if a tensor of the device is indexed."""
    flat, _ = tree_flatten(index)
    for each in flat:
        if isinstance(each, OnDevice):
            whole = each.dtype not in {torch.bool, torch.uint8}
            if not whole or not each.dim():
                return True
        elif isinstance(each, Tensor) and each.dim():
            return True  # it is copied
    # A list is made a tensor, which is copied.
    parts = index if isinstance(index, tuple | list) else [index]
    return any(isinstance(each, list) for each in parts) or isinstance(index, list)


def wrapped(result: Any, own: list[OnDevice]) -> Any:
    """Return tensors as ones of the device; those that were changed in place are the same ones."""
    if isinstance(result, Tensor):
        for each in own:
            if each.inner is result:
                if each.shape != result.shape:
                    raise NotImplementedError("a tensor's shape was changed in place")
                return each
        return OnDevice(result)
    if isinstance(result, tuple | list):
        return type(result)(wrapped(each, own) for each in result)
    return result


class Double(TorchDispatchMode):
    """Computes all operations."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return compute(func, args, kwargs or {})


def is_pinned(tensor: Tensor) -> bool:
    return bool(vars(tensor).get("pinned_by_double", False))


def pinned_copy(tensor: Tensor) -> Tensor:
    if isinstance(tensor, OnDevice):
        raise RuntimeError(f"a tensor of the device is pinned, by {_caller()}")
    copy = tensor.clone()
    vars(copy)["pinned_by_double"] = True
    return copy


class _Event:
    """Of a stream that has computed everything."""

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


def nonzero(tensor: Tensor, *, as_tuple: bool = False) -> Any:
    return tensor.nonzero(as_tuple=as_tuple)


def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
    found = _EMPTY(*args, **kwargs)
    if pin_memory:
        vars(found)["pinned_by_double"] = True
    return found


_EMPTY = torch.empty


def within_windows(states: Any, bounds: Tensor, *options: Any) -> Any:
    """Attend within windows, whose bounds a GPU's kernel would need on the device."""
    if bounds.device != states[0].device:
        raise RuntimeError(f"bounds of windows are on {bounds.device}, by {_caller()}")
    return _WITHIN_WINDOWS(states, bounds, *options)


_WITHIN_WINDOWS = packed._within_windows


@contextmanager
def on_double(vlm: VisionLanguageModel) -> Iterator[tuple[VisionLanguageModel, Waits]]:
    """Put a model on the double within the context.

    Args:
        vlm: A model on the CPU, whose parameters are replaced.
    """
    _now.restart()
    with ExitStack() as stack:
        patching = stack.enter_context(pytest.MonkeyPatch.context())
        patching.setattr(torch.cuda, "_lazy_init", lambda: None)
        patching.setattr(torch.cuda, "device", lambda _device: nullcontext())
        patching.setattr(torch.cuda, "Event", _Event)
        patching.setattr(torch.cuda, "current_stream", lambda _device=None: None)
        patching.setattr(torch.cuda, "get_device_capability", lambda _device=None: (9, 0))
        patching.setattr(packed, "_within_windows", within_windows)
        patching.setattr(torch, "empty", empty)
        patching.setattr(torch, "nonzero", nonzero)
        patching.setattr(Tensor, "is_pinned", is_pinned)
        patching.setattr(Tensor, "pin_memory", pinned_copy)
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # a new tensor is on the CPU, and then copied
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        stack.enter_context(placed(vlm))
        stack.enter_context(Double())
        yield replace(vlm), _now


@contextmanager
def placed(vlm: VisionLanguageModel) -> Iterator[None]:
    """Put the parameters and buffers of a model on the device within the context."""
    tower, blocks = vlm.vision_tower, vlm.layers
    heavy = {id(each) for part in (tower, blocks) for each in part.parameters()}
    copies: dict[int, Tensor] = {}
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    with torch.inference_mode():  # otherwise torch counts the versions of their views
        for module in vlm.model.modules():
            for space in (module._parameters, module._buffers):
                for name, own in space.items():
                    if own is None:
                        continue
                    if id(own) not in copies:
                        copy: Tensor = OnDevice(own.detach())
                        if isinstance(own, nn.Parameter):
                            copy = nn.Parameter(copy, requires_grad=False)
                            copy.inner = own.detach()
                        copy.is_weight = id(own) in heavy
                        copies[id(own)] = copy
                    kept.append((space, name, own))
    for space, name, own in kept:
        space[name] = copies[id(own)]
    try:
        yield
    finally:
        for space, name, own in kept:
            space[name] = own
