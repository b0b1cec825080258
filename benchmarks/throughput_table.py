"""What ``throughput.py`` measured, as shares of the ceilings and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

METHODS = ("seed", "generate", "vlmscope")
Found = dict[str, Any]


def derive(found: Found) -> Found:
    """Return rows a second by scenario and method, utilisation, and where our time goes."""
    rates = {name: _rates(found, name) for name in found["vlmscope"]}
    derived: Found = {"rows_per_second": rates, "breakdown": _breakdown(found, rates)}
    ceilings = found["ceilings"]
    if "prefill" in rates:
        derived["flop_utilisation"] = {
            method: found["flops"]["prefill"] * rates["prefill"][method] / ceilings["flops"]
            for method in METHODS
        }
    if {"answers", "prefill"} <= rates.keys():
        derived["bandwidth_utilisation"] = _decoding(found, rates)
    return derived


def _rates(found: Found, name: str) -> dict[str, float]:
    """Return rows a second of each method in one scenario.

    The reference method takes each question for itself, so ``shared`` is to it what ``prefill`` is.
    Its few rows would not show how ``lengths`` are spread: that one is reckoned from its times with
    and without answers, at the mean length of ours.
    """
    seed, ours, generate = found["seed"], found["vlmscope"][name], found["generate"][name]
    seconds = seed["answers"] if name == "answers" else seed["prefill"]
    if name == "lengths":
        mean = np.mean(ours["answer_lengths"]) / int(found["options"]["tokens"])
        seconds = seed["prefill"] + float(mean) * (seed["answers"] - seed["prefill"])
    best = generate["sizes"][generate["best"]]["rows_per_second"]
    return {"seed": 1 / seconds, "generate": best, "vlmscope": ours["rows_per_second"]}


def _decoding(found: Found, rates: Found) -> dict[str, float]:
    """Return the share of the copy's bandwidth that decoding uses, from the two runs' difference.

    Without answers one token is still chosen, so an answer of n tokens is n - 1 steps longer.
    """
    size = found["generate"]["answers"]["best"]
    other = found["generate"]["prefill"]["sizes"].get(size, "")
    prefill = rates["prefill"]["generate"] if isinstance(other, str) else other["rows_per_second"]
    shares = {}
    for method, rows, slow, fast in (
        ("generate", size, rates["answers"]["generate"], prefill),
        ("vlmscope", found["batch"], rates["answers"]["vlmscope"], rates["prefill"]["vlmscope"]),
    ):
        steps = int(found["options"]["tokens"]) - 1
        step = rows * (1 / slow - 1 / fast) / steps
        read = found["step_bytes"]["weights"] + rows * found["step_bytes"]["row"]
        shares[method] = read / step / found["ceilings"]["bytes"]
    return shares


def _breakdown(found: Found, rates: Found) -> dict[str, float]:
    """Return seconds a row of vlmscope by stage, as far as the scenarios tell."""
    vision = found["vision"]["split"] or found["vision"]["sdpa"]
    parts = {"vision": vision}
    if "prefill" in rates:
        parts["rest of prefill"] = 1 / rates["prefill"]["vlmscope"] - vision
        if "answers" in rates:
            whole = 1 / rates["answers"]["vlmscope"]
            parts["decode"] = whole - 1 / rates["prefill"]["vlmscope"]
    return parts


def print_table(found: Found) -> None:
    """Print the table, and below it what explains it."""
    derived, options = found["derived"], found["options"]
    print(
        f"\n{found['device']}, torch {found['torch']}, transformers {found['transformers']}, ",
        end="",
    )
    print(f"{found['dtype']}, {options['size']} size; rows a second:")
    head = ("", "seed", "generate", "at batch", "vlmscope", "x seed", "x generate")
    _line(*head, "peak GB", "GB, ours", "busy")
    for name, rates in derived["rows_per_second"].items():
        generate, ours = found["generate"][name], found["vlmscope"][name]
        best = generate["sizes"][generate["best"]]
        seed, theirs, own = (rates[method] for method in METHODS)
        _line(
            name, f"{seed:.2f}", f"{theirs:.2f}", str(generate["best"]), f"{own:.2f}",
            f"{own / seed:.1f}", f"{own / theirs:.2f}",
            _or_none(best["peak_gb"], "{:.1f}"), _or_none(ours["peak_gb"], "{:.1f}"),
            _or_none(ours["busy"], "{:.0%}"),
        )  # fmt: skip
    _print_sizes(found)
    _print_hardware(found)
    _print_breakdown(found)
    _print_checks(found)


def _line(*cells: str) -> None:
    print(f"{cells[0]:10}" + "".join(f"{cell:>11}" for cell in cells[1:]))


def _or_none(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)


def _print_sizes(found: Found) -> None:
    for name, generate in found["generate"].items():
        sizes = [
            f"{size}: {one if isinstance(one, str) else format(one['rows_per_second'], '.2f')}"
            for size, one in generate["sizes"].items()
        ]
        host = generate["host_seconds"]
        print(f"generate, {name}: {', '.join(sizes)}; processor, not in it: {host:.3f} s a row")


def _print_hardware(found: Found) -> None:
    ceilings, flops, step = found["ceilings"], found["flops"], found["step_bytes"]
    print(f"ceilings: {ceilings['flops'] / 1e12:.2f} TFLOP/s, {ceilings['bytes'] / 1e9:.0f} GB/s")
    print(
        f"a prefill: {flops['prefill'] / 1e12:.3g} TFLOP, of which vision "
        f"{flops['vision'] / flops['prefill']:.0%}; a decoding step reads "
        f"{step['weights'] / 1e9:.3g} GB and {step['row'] / 1e9:.3g} GB a row"
    )
    for key, what in (
        ("flop_utilisation", "prefill, share of the FLOP/s"),
        ("bandwidth_utilisation", "decoding, share of the GB/s"),
    ):
        if key in found["derived"]:
            shares = found["derived"][key]
            print(f"{what}: " + ", ".join(f"{name} {value:.1%}" for name, value in shares.items()))


def _print_breakdown(found: Found) -> None:
    parts = found["derived"]["breakdown"]
    shown = ", ".join(f"{name} {1000 * value:.1f}" for name, value in parts.items())
    print(f"vlmscope, ms a row: {shown}")
    for name, ours in found["vlmscope"].items():
        if ours["busy"] is not None:
            host = ours["seconds"] * (1 - ours["busy"])
            print(f"{name}: {host:.1f} of {ours['seconds']:.1f} s without work on the GPU")
    vision = found["vision"]
    split = _or_none(vision["split"] and 1000 * vision["split"], "{:.1f}")
    plain = 1000 * vision["sdpa"]
    print(f"vision encoder alone, batch {vision['batch']}: {plain:.1f} ms a row, split {split}")


def _print_checks(found: Found) -> None:
    if "verify" in found:
        print(f"answers against reference.py: {found['verify']}")
    for name, generate in found["generate"].items():
        first, whole = generate["same_first_token"], generate["same_answer"]
        print(f"{name}: same first token as generate {first:.0%}, same answer {whole:.0%}")
    if "lengths" in found["vlmscope"]:
        generate = found["generate"]["lengths"]
        best = generate["sizes"][generate["best"]]
        print(f"lengths, vlmscope: {_spread(found['vlmscope']['lengths']['answer_lengths'])}")
        print(f"lengths, generate: {_spread(best['answer_lengths'])}")


def _spread(lengths: Sequence[int]) -> str:
    low, middle, high, most = np.quantile(lengths, [0, 0.5, 0.9, 1])
    return (
        f"{low:.0f} to {most:.0f} tokens, median {middle:.0f}, mean {np.mean(lengths):.0f}, "
        f"a tenth above {high:.0f}"
    )
