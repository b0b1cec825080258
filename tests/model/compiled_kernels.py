"""Compiles every kernel in Triton's language for GPUs that need not be here; prints their names.

The interpreter, which the tests of results use, accepts more than the compiler does. A program of
its own: Triton reads ``TRITON_INTERPRET`` when it is imported.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vlmscope.model.elementwise import triton_kernels as kernels

ARCHITECTURES = (80, 90)
"""Ampere and Hopper."""

STRIDES = dict.fromkeys(
    ("tokens", "states_row", "states_token", "states_head", "cos_row", "cos_token", "sin_row",
     "sin_token", "found_row", "found_token", "found_head", "query_row", "key_row", "value_row",
     "heads", "repeats", "numbers"), "i32",
)  # fmt: skip
FLOATS = {"epsilon": "fp32", "scale": "fp32", "state": "*fp32", "decay": "*fp32"}

KERNELS: dict[Any, list[dict[str, Any]]] = {
    kernels._rotate: [{"heads": 28, "half": 40, "all_heads": 32, "all_half": 64}],
    kernels._gate: [{"activation": each, "at_once": 2048} for each in range(3)],
    kernels._norm: [{"width": 3840, "all_width": 4096, "at_once": 1}],
    kernels._delta: [
        {"keys": 128, "values": 128, "all_keys": 128, "at_once": 32, "normalized": each}
        for each in (True, False)
    ],
}
"""Each kernel with constants that it is called with."""


def main() -> None:
    """Compile all of them in half precision."""
    for kernel, constants in KERNELS.items():
        for values in constants:
            names = kernel.arg_names
            signature = {
                name: "constexpr"
                if name in values
                else FLOATS.get(name, STRIDES.get(name, "*bf16"))
                for name in names
            }
            given = {(names.index(name),): value for name, value in values.items()}
            for architecture in ARCHITECTURES:
                source = ASTSource(kernel, signature, given)
                made = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
                assert made.asm["cubin"]
        sys.stdout.write(f"{kernel.__name__}\n")


if __name__ == "__main__":
    main()
