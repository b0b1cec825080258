"""The command line: one file per command; this file combines them and prints errors.

Exit codes: 0 all rows done; 1 stopped by an error (one line for an expected error, such as a full
disk; a traceback for a bug); 2 invalid usage or input, nothing was done; 3 finished, but rows
failed; 130 and 143 stopped by Ctrl-C and SIGTERM, finished rows are saved; 124 the model repeatedly
took longer than ``--time-limit``.

- A file for each command: ``extract``, ``inspect``, ``info``, ``verify``, ``export``, ``label``,
  ``agreement``, ``probe``, ``detect``, ``compare``, ``report``, ``score``, ``demo``, ``models``
- ``options``: the options that several commands share
- ``output``, ``streams``: printing text, and streams that cannot be written
- ``progress``, ``stopping``: the live bar, and Ctrl-C
- ``paths``, ``verified_run``: checks before a command writes to a path, or uses a run
- Parts of ``label``: ``label_target``, ``label_judge``, ``label_reading``, ``label_doubts``,
  ``label_sets``
- Parts of ``probe``: ``verdict``, ``by_column``, ``halp``, ``transfer``
- Part of ``inspect``: ``inspect_maps``
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from inspect import getdoc
from pathlib import Path

import typer

from vlmscope.cli.agreement import agreement
from vlmscope.cli.compare import compare
from vlmscope.cli.demo import demo
from vlmscope.cli.detect import detect
from vlmscope.cli.export import export
from vlmscope.cli.extract import extract
from vlmscope.cli.info import info
from vlmscope.cli.inspect import inspect
from vlmscope.cli.label import label
from vlmscope.cli.models import models
from vlmscope.cli.output import show_error
from vlmscope.cli.probe import probe
from vlmscope.cli.report import report
from vlmscope.cli.score import score
from vlmscope.cli.streams import StdoutError, safe_streams
from vlmscope.cli.verify import verify
from vlmscope.errors import InputError, VlmscopeError, naming_options

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that set how the threads of OpenMP wait for each other."""

NARROWEST = 80
"""Minimum width of a terminal, in columns, for help in panels."""

app = typer.Typer(
    help="Extract hidden states from vision-language models, and predict hallucinations from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def unwrapped(command: Callable[..., None]) -> str:
    """Return the docstring of a command with one line per paragraph, for a terminal to wrap."""
    paragraphs = (getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


for command in (
    extract,
    inspect,
    info,
    verify,
    label,
    agreement,
    probe,
    detect,
    compare,
    report,
    score,
    export,
    models,
    demo,
):
    app.command(help=unwrapped(command))(command)


def fit_help(columns: int) -> None:
    """Show ``--help`` without panels on a narrow terminal, where they would cut names."""
    app.rich_markup_mode = "rich" if columns >= NARROWEST else None


def _version(value: bool) -> None:
    if value:
        from vlmscope.version import __version__

        typer.echo(f"vlmscope {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Extract hidden states from vision-language models, and predict hallucinations from them."""


def main() -> None:
    """Run the command line; a ``VlmscopeError`` becomes one line and its exit code."""
    share_processors()
    with naming_options(), safe_streams():
        code = _run()
    sys.exit(code)


def share_processors() -> None:
    """Let torch's threads sleep while they wait for each other, unless the user chose otherwise.

    By default they spin, so that two commands at once on a CPU take each other's time: more than
    ten times as long instead of twice (docs/performance.md). OpenMP reads this when torch is
    loaded.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _run() -> int:
    """Run the command and return its exit code."""
    try:
        code = _run_app()
        sys.stdout.flush()
    except StdoutError as error:
        if not isinstance(error.__cause__, BrokenPipeError):  # the reader, such as head, has ended
            show_error(str(error))
        return error.exit_code
    except VlmscopeError as error:
        show_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        show_error("interrupted; published rows are kept")
        return 130
    except MemoryError:
        show_error("out of memory; published rows are kept")
        return 1
    return code


def _is_interrupted(error: BaseException | None) -> bool:
    """Return whether an exception was raised while Ctrl-C was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _run_app() -> int:
    try:
        Path.cwd()
    except OSError as error:  # libraries would end the process
        raise InputError(
            "the current folder does not exist any more; change to another one"
        ) from error
    fit_help(shutil.get_terminal_size().columns)
    try:
        app()
    except SystemExit as stop:
        if _is_interrupted(stop):  # typer ends without a word
            raise KeyboardInterrupt from None
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
