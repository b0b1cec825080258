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
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from vlmscope.model import VisionLanguageModel

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

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return compute(func, args, kwargs or {}, Waits())


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


def compute(func: Any, args: Any, kwargs: Any, waits: Waits) -> Any:
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
            _note_copy(name, flat, args, kwargs, waits)
    elif own and any(each.dim() for each in others):
        shapes = [tuple(each.shape) for each in others]
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, found those of shapes "
            f"{shapes} on the CPU, called by {_caller()}"
        )
    if own and _reads(name, args, kwargs):
        waits.add(name)
    if name not in FREE and any(each.is_weight for each in own):
        waits.launched = True
    flat = [CPU if isinstance(each, torch.device) else _inner(each) for each in flat]
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


def _note_copy(name: str, flat: Any, args: Any, kwargs: Any, waits: Waits) -> None:
    """Note a copy between devices, unless it is one that the host does not wait for."""
    source = args[1] if name in {"copy_", "copy"} else args[0]
    target = args[0] if name in {"copy_", "copy"} else None
    blocking = not (kwargs.get("non_blocking") or any(each is True for each in flat))
    on_host = target if isinstance(source, OnDevice) else source
    if name == "copy_" and not isinstance(source, OnDevice) and not source.dim():
        return  # a number, which is passed to a kernel
    if blocking or on_host is None or not is_pinned(on_host):
        waits.add(name)


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
        return _waits_for_index(args[1])
    return name == "where" and len(args) == 1


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
    """Computes all operations.

    Args:
        waits: What the host waits for.
    """

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return compute(func, args, kwargs or {}, self.waits)


class Indexing(TorchFunctionMode):
    """Indexes tensors of the device, for which torch itself needs a GPU.

    Args:
        waits: What the host waits for.
    """

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in {Tensor.tolist, Tensor.numpy} and isinstance(args[0], OnDevice):
            if func is Tensor.numpy:
                raise TypeError(f"can't convert a tensor of the device, by {_caller()}")
            self.waits.add("tolist")
            return args[0].inner.tolist()
        if func not in {Tensor.__getitem__, Tensor.__setitem__}:
            return func(*args, **(kwargs or {}))
        tensor, index, *values = args
        flat, spec = tree_flatten(index)
        if not isinstance(tensor, OnDevice):
            if any(isinstance(each, OnDevice) and each.dim() for each in flat):
                raise RuntimeError(f"a tensor of the CPU is indexed by the device, by {_caller()}")
            if any(isinstance(each, OnDevice) for each in (*flat, *values)):
                self.waits.add("index of the CPU")
            return func(*(tree_map_inner(each) for each in args))
        if _waits_for_index(index):
            self.waits.add("index")
        chosen = tree_unflatten([_inner(each) for each in flat], spec)
        if values:
            [value] = values
            if isinstance(value, Tensor) and not isinstance(value, OnDevice) and value.dim():
                self.waits.add("setitem")
            return func(tensor.inner, chosen, _inner(value))
        return wrapped(func(tensor.inner, chosen), [tensor])


def tree_map_inner(value: Any) -> Any:
    flat, spec = tree_flatten(value)
    return tree_unflatten([_inner(each) for each in flat], spec)


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


def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
    found = _EMPTY(*args, **kwargs)
    if pin_memory:
        vars(found)["pinned_by_double"] = True
    return found


_EMPTY = torch.empty


@contextmanager
def on_double(vlm: VisionLanguageModel) -> Iterator[tuple[VisionLanguageModel, Waits]]:
    """Put a model on the double within the context.

    Args:
        vlm: A model on the CPU, whose parameters are replaced.
    """
    waits = Waits()
    with ExitStack() as stack:
        patching = stack.enter_context(pytest.MonkeyPatch.context())
        patching.setattr(torch.cuda, "_lazy_init", lambda: None)
        patching.setattr(torch.cuda, "device", lambda _device: nullcontext())
        patching.setattr(torch.cuda, "Event", _Event)
        patching.setattr(torch.cuda, "current_stream", lambda _device=None: None)
        patching.setattr(torch.cuda, "get_device_capability", lambda _device=None: (9, 0))
        patching.setattr(torch, "empty", empty)
        patching.setattr(Tensor, "is_pinned", is_pinned)
        patching.setattr(Tensor, "pin_memory", pinned_copy)
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # a new tensor is on the CPU, and then copied
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        stack.enter_context(placed(vlm))
        stack.enter_context(Double(waits))
        stack.enter_context(Indexing(waits))
        yield replace(vlm), waits


@contextmanager
def placed(vlm: VisionLanguageModel) -> Iterator[None]:
    """Put the parameters and buffers of a model on the device within the context."""
    tower, blocks = vlm.vision_tower, vlm.layers
    heavy = {id(each) for part in (tower, blocks) for each in part.parameters()}
    copies: dict[int, Tensor] = {}
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
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
