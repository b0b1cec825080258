"""The judge of ``vlmscope label``: which one it is, what it will take, and whether it is wanted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from vlmscope.cli.output import count, stderr
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.cli.label_target import Target
    from vlmscope.schema import Answered


@dataclass(frozen=True)
class JudgeOptions:
    """The options of the judge."""

    model: str
    url: str | None
    concurrency: int
    prices: tuple[float, float] | None


def make_judge(options: JudgeOptions, target: Target) -> tuple[Any, dict[str, Any]]:
    """Return the judge and its settings as plain data."""
    from vlmscope.score.judge import Judge, JudgeSettings
    from vlmscope.store import is_remote

    verdicts = target.verdicts
    if is_remote(verdicts):
        raise InputError(
            f"--judge-model: its verdicts are appended to {verdicts.name} in the run as they come, "
            f"and nothing can be appended in an object store; copy {verdicts.parent} to a folder "
            "first"
        )
    per_input, per_output = options.prices or (None, None)
    settings = JudgeSettings(
        model=options.model,
        base_url=options.url,
        concurrency=options.concurrency,
        input_price=per_input,
        output_price=per_output,
    )
    return Judge(settings, cache=verdicts), settings.record()


def confirm_judge(judge: Any, target: Target, scorer: str, model: str, yes: bool) -> None:
    """Say what the judge will take, and go on only if that is wanted."""
    estimate = judge.estimate(_for_judge(target, scorer))
    cost = "" if estimate.cost is None else f", about {estimate.cost:,.2f} in all"
    equal = f", {estimate.equal:,} equal to others of these" if estimate.equal else ""
    stderr.print(
        f"{model}: {count(estimate.to_ask, 'request')} to make{equal}, {estimate.cached:,} known "
        f"already; about {estimate.input_tokens:,} tokens in, {estimate.output_tokens:,} out{cost}"
    )
    if yes or not estimate.to_ask:
        return
    if not sys.stdin.isatty():
        raise InputError("--judge-model: requests cost money; give --yes to make them unasked")
    if not typer.confirm("Go ahead?", err=True):
        raise InputError("the judge was not asked; nothing was done")


def _for_judge(target: Target, scorer: str) -> Iterator[Answered]:
    """Yield the rows that the judge would be asked about."""
    from vlmscope.score import Auto, left_over

    if scorer == "judge":
        return target.rows()
    return left_over(target.rows(), Auto()(target.rows()))
