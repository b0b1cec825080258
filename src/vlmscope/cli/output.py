"""Printing: results to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from vlmscope.shown import count as count

stdout = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
"""Results, for a pipe. Without markup, so that text from data is shown unchanged."""

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
"""Progress, plans, errors."""


FIRST_LINE, NEXT_LINE = 5.0, 60.0
"""Seconds after which a log file names what is being done, and then what else."""


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done within the context; yield a function that changes the text.

    A terminal shows it at once. Elsewhere, such as in the log of a batch job, it is printed as a
    line if it takes long.
    """
    if stderr.is_terminal:
        with stderr.status(_line_of(text)) as shown:
            yield lambda changed: shown.update(_line_of(changed))
        return
    now, over = [text], Event()
    writer = Thread(target=_write_lines, args=(now, over), daemon=True)
    writer.start()
    try:
        yield lambda changed: now.__setitem__(0, changed)
    finally:
        over.set()
        writer.join()


def _write_lines(now: list[str], over: Event) -> None:
    """Print the text when it lasts, and what it has become later, until it is over."""
    last, seconds = "", FIRST_LINE
    while not over.wait(seconds):
        if now[0] != last:
            last = now[0]
            stderr.print(_line_of(f"{last} …"))
        seconds = NEXT_LINE


def _line_of(text: str) -> Text:
    """Return a text that may have names of files in it: not as markup, no control characters."""
    return Text(shown_text(text, len(text)))


_NOT_SHOWN = ("Cc", "Cf", "Cs")


def show(renderable: RenderableType) -> None:
    """Print a table or a panel to stdout, its long texts wrapped to the terminal."""
    stdout.print(renderable, soft_wrap=False)


def number_table(*headings: str, title: Text | None = None) -> Table:
    """Return a table with texts in the first column, which may wrap, and numbers in the others.

    A number is never wrapped, however narrow the terminal is.
    """
    table = Table(
        box=None, pad_edge=False, header_style="dim", title=title, title_justify="left"
    )  # fmt: skip
    for index, heading in enumerate(headings):
        table.add_column(
            heading,
            overflow="fold",
            no_wrap=index > 0,
            justify="right" if index else "left",
        )
    return table


def with_interval(
    value: float | None, low: float | None, high: float | None, form: str = ".3f"
) -> str:
    r"""Return a number, and its interval on the line below; a dash if there is no number.

    >>> with_interval(0.5, 0.41, 0.6), with_interval(-0.1, -0.2, 0.0, "+.1f")
    ('0.500\n0.410–0.600', '-0.1\n-0.2 to +0.0')
    >>> with_interval(float("nan"), None, None), with_interval(0.5, float("nan"), 0.6)
    ('–', '0.500')
    """
    value, low, high = (each if each is not None and each == each else None
                        for each in (value, low, high))  # fmt: skip
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:{form}}"
    between = " to " if form.startswith("+") else "–"
    return f"{value:{form}}\n{low:{form}}{between}{high:{form}}"


def shown_text(text: str, longest: int = 80) -> str:
    r"""Return a text from data for a terminal: no control characters, not too long.

    Lone surrogates, which cannot be encoded, are replaced too.

    >>> shown_text("a\x1b[31mb"), shown_text("x" * 90, 5)
    ('a�[31mb', 'xxxx…')
    """
    plain = "".join("\ufffd" if unicodedata.category(c) in _NOT_SHOWN else c for c in text)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def show_error(message: str) -> None:
    """Print a one-line error."""
    stderr.print(Text.assemble(("error: ", "bold red"), message))


def show_note(note: str) -> None:
    """Print a note, which is not an error."""
    stderr.print(Text(f"note: {note}", style="yellow"))


def show_next(*command: str) -> None:
    """Print a suggestion for the next command on stderr."""
    stderr.print(Text(f"next: {command_line(*command)}", style="dim"))


def command_line(*command: str) -> str:
    """Return a command of vlmscope as text for a shell, called as this one was.

    That is by name, by file, or as a module of an interpreter.
    """
    return shlex.join([*_program(), *command])


def _program() -> list[str]:
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        python = Path(sys.executable).name
        found = shutil.which(python) == sys.executable
        return [python if found else sys.executable, "-m", "vlmscope"]
    by_name = shutil.which("vlmscope")
    on_path = by_name and Path(by_name).resolve() == called.resolve()
    return ["vlmscope"] if on_path else [str(called)]


def quiet_libraries() -> None:
    """Hide progress bars and advice of libraries; their errors are still shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("transformers", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|huggingface_hub|accelerate|torch)\b")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def human_size(count: float) -> str:
    """Return a byte count as text with a unit.

    >>> human_size(1_960_000_000), human_size(512)
    ('2.0 GB', '512 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape in the notation of the specification.

    >>> shape_text((1, 34, 4096))
    '[1, 34, 4096]'
    """
    return f"[{', '.join(map(str, shape))}]"
