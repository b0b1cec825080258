"""Norms, MLPs and rotary embeddings as fused kernels, through ``torch.compile``.

In half precision a norm is six kernels, a rotary embedding ten, and each reads and writes the
complete hidden state: a third of a prefill beside the matrix products. Compiled, each is one or
two. Only these small parts are compiled, class by class and not block by block: they depend on
nothing but their tensors, so one compilation serves all layers, all batches and both prefill and
decoding, and takes seconds, not minutes.

The first calls of a process compile, or read the result of an earlier process from a cache, so this
is for runs of many rows (``worth_fusing``). Parts are replaced during a pass and restored after it,
like an attention (``attention/switch``). If the compiler fails, the parts run as they were loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.errors import one_line
from vlmscope.model.computing import replacing_forwards, replacing_globals, undone_at_exit
from vlmscope.model.loading.checksums import cache_folder
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.shown_once import warn

ROWS_TO_FUSE = 3000
"""Rows from which compiling takes less time than it saves: 10 to 18 s the first time, against 5 to
8 ms per row."""

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The compiler's setting for the folder of its kernels; it reads it when it compiles."""

_NAMES = ("RMSNorm", "MLP", "Mlp", "FeedForward")
"""Ends of the names of the classes whose ``forward`` is compiled."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def worth_fusing(vlm: VisionLanguageModel, rows: int) -> bool:
    """Return whether compiling pays for a run of so many rows: on one GPU, in half precision."""
    return (
        rows >= ROWS_TO_FUSE
        and len(vlm.cuda_devices) == 1
        and vlm.dtype in {torch.bfloat16, torch.float16}
        and not vlm.quantization
        and not vlm.adapter
    )


class FusedParts:
    """The compiled parts of a model. Nothing is compiled before the first pass.

    Args:
        model: The model.
        backend: Backend of ``torch.compile``.
    """

    def __init__(self, model: nn.Module, backend: str = "inductor") -> None:
        self._backend = backend
        # In this process: a few small kernels compile in less time than processes start.
        self._options: Any = {"compile_threads": 1} if backend == "inductor" else None
        self._kernels = "" if CACHE_VARIABLE in os.environ else _folder_of_kernels()
        self._failed = False
        compiled: dict[Any, Callable[..., Any]] = {}

        def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
            if function not in compiled:
                compiled[function] = self._with_fallback(function)
            return compiled[function]

        self._modules: list[tuple[nn.Module, Callable[..., Any]]] = []
        spaces: dict[int, dict[str, Any]] = {}
        for module in model.modules():
            kind = type(module)
            if kind.__module__.startswith("transformers.models."):
                space = vars(sys.modules[kind.__module__])
                spaces[id(space)] = space
                if _is_by_token(kind) and "forward" not in vars(module):
                    forward = partial(_by_token, compile_once(kind.forward), module)
                    self._modules.append((module, forward))
        self._functions = [
            (space, name, compile_once(function))
            for space in spaces.values()
            for name, function in space.items()
            if name.startswith("apply_rotary_pos_emb") and callable(function)
        ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the compiled parts within the context."""
        if self._failed:
            yield
            return
        # A compiled module would not call hooks that a user put on its parts.
        modules = (pair for pair in self._modules if not _has_hooked_parts(pair[0]))
        with (
            _kernels_in(self._kernels),
            replacing_forwards(modules),
            replacing_globals(self._functions),
        ):
            yield

    def _with_fallback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a compiled function that is as it was loaded if the compiler fails."""
        compiled: Callable[..., Any] = torch.compile(
            function, dynamic=True, backend=self._backend, options=self._options
        )

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._failed:
                return function(*args, **kwargs)
            try:
                return compiled(*args, **kwargs)
            except Exception as error:
                if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
                    raise
                found = function(*args, **kwargs)  # raises if it is not the compiler's fault
                self._failed = True
                warn(
                    f"torch.compile failed ({type(error).__name__}: {one_line(error)}); the model "
                    "runs without fused kernels, which is slower",
                    stacklevel=2,
                )
                return found

        return call


def _has_hooked_parts(module: nn.Module) -> bool:
    return any(getattr(part, hooks) for part in module.children() for hooks in _HOOKS)


def _is_by_token(kind: type) -> bool:
    """Return whether a class computes each token on its own, by its name."""
    return kind.__name__.endswith(_NAMES) and "PixelShuffle" not in kind.__name__


def _by_token(
    forward: Callable[..., Any],
    module: nn.Module,
    states: Any = None,
    *args: Any,
    **options: Any,
) -> Any:
    """Call a module on its states as a list of tokens, so that it is compiled for one shape.

    A prefill's states have three dimensions, an encoder's two, and a step's one token per row.
    """
    if states is None:
        return forward(module, **options)
    if args or options or not isinstance(states, Tensor) or states.dim() < 3:
        return forward(module, states, *args, **options)
    found = forward(module, states.flatten(0, -2))
    return found.view(*states.shape[:-1], found.shape[-1])


@contextmanager
def _kernels_in(folder: str) -> Iterator[None]:
    """Let the compiler keep its kernels in a folder within the context; empty for its own."""
    before = os.environ.get(CACHE_VARIABLE)

    def restore() -> None:
        os.environ.pop(CACHE_VARIABLE, None)
        if before is not None:
            os.environ[CACHE_VARIABLE] = before

    with undone_at_exit(restore) if folder else nullcontext():
        if folder:
            os.environ[CACHE_VARIABLE] = folder
        yield


def _folder_of_kernels() -> str:
    """Return where the compiler is to keep its kernels for the next process: in the user's cache.

    Empty if there is no such cache: then they are in its own temporary folder.
    """
    with suppress(OSError, RuntimeError):
        folder = cache_folder() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    return ""
