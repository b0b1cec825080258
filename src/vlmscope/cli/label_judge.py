"""The judge of ``vlmscope label``: its settings, an estimate of its cost, and the confirmation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlmscope.cli.output import count, quiet_libraries, status, stderr
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
    batch_size: int

    @property
    def is_local(self) -> bool:
        """Whether the model is a local folder, and not a name at an endpoint."""
        return self.url is None and (Path(self.model) / "config.json").is_file()


def make_judge(options: JudgeOptions, target: Target) -> tuple[Any, dict[str, Any]]:
    """Return the judge and its settings as plain data."""
    from vlmscope.score.judge import Judge, JudgeSettings
    from vlmscope.store import is_remote

    verdicts = target.verdicts
    if is_remote(verdicts):
        raise InputError(
            f"--judge-model: its verdicts are appended to {verdicts.name} in the run, which is not "
            f"possible in an object store; copy {verdicts.parent} to a folder first"
        )
    if options.is_local:
        from vlmscope.labelling import local_judge, local_settings

        quiet_libraries()
        with status("reading the judge's weights"):
            local = local_settings(options.model, options.batch_size)
        return local_judge(local, verdicts), local.record()
    if options.url is None and Path(options.model).is_dir():
        raise InputError(
            f"--judge-model {options.model}: the folder has no config.json; give the folder of a "
            "complete checkpoint"
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


def confirm_judge(
    judge: Any, target: Target, scorer: str, options: JudgeOptions, yes: bool
) -> None:
    """Print the estimate of the judge's cost, and ask for confirmation.

    A model that is loaded here costs nothing and needs no confirmation.
    """
    estimate = judge.estimate(_for_judge(target, scorer))
    cost = "" if estimate.cost is None else f", about {estimate.cost:,.2f} in total"
    equal = f", {estimate.equal:,} equal to others of these" if estimate.equal else ""
    stderr.print(
        f"{options.model}: {count(estimate.to_ask, 'request')} to make{equal}, "
        f"{estimate.cached:,} answered before; about {estimate.input_tokens:,} tokens in, "
        f"{estimate.output_tokens:,} out{cost}"
    )
    if yes or not estimate.to_ask or options.is_local:
        return
    if not sys.stdin.isatty():
        raise InputError(
            "--judge-model: requests cost money; give --yes to send them without confirmation"
        )
    if not typer.confirm("Go ahead?", err=True):
        raise InputError("the judge was not run; nothing was done")


def _for_judge(target: Target, scorer: str) -> Iterator[Answered]:
    """Yield the rows that the judge would be asked about."""
    from vlmscope.score import Auto, read_code, unscorable_rows

    if scorer == "judge":
        return target.rows()
    code = read_code(target.rows())
    return unscorable_rows(target.rows(), Auto(code=code)(target.rows()))
