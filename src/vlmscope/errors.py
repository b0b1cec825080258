"""The exception tree. Everything vlmscope raises on purpose is a ``VlmscopeError``.

    VlmscopeError
    ├── InputError       an argument, the data or a path is wrong; also a ``ValueError``
    │   ├── UnknownIdError  a run has no question with that id; also a ``KeyError``
    │   └── RowNumberError  a run has no row with that number; also an ``IndexError``
    ├── ModelError       the checkpoint cannot be loaded, or is not what we expect
    │   └── ModelChangedError  its files were modified while the model computed
    ├── RunMismatchError the run folder was made with other settings
    ├── RunBusyError     another process is writing the run
    ├── TableChangedError  the table has changed since it was checked
    ├── StoreError       a run cannot be written or read (full disk, damaged shard)
    │   ├── UnreachableError  the object store does not answer
    │   └── EarlierVersionError  an intact file lacks what this version reads
    ├── ToleranceError   ``verify`` found rows that differ from the reference method
    └── RowError         one row failed; the others continue

Messages are one line: where, what was found, what was expected, what to do. The command line shows
a ``VlmscopeError`` as that line and exits with its ``exit_code``; any other exception is a bug and
shows its traceback.

Messages are written with command-line options, ``--max-new-tokens``. Only the command line shows
them unchanged; raised from Python, an error names the argument, ``max_new_tokens``. A function
whose argument has another name than the option says so with ``naming_arguments``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any, ClassVar

_KEPT = r"'vlmscope [^']*'|\bvlmscope [a-z]+ [^;,]*"
"""A command in a message: its options are options also from Python."""

_VALUE = (
    r"(?: (?P<metavar>[A-Z][A-Z/]*(?![\w/-]))"
    r"| (?P<value>(?:exact|near|halp|eager|sdpa|auto|\w*[a-z]\w*[_\d]\w*)(?![\w./\\:-])))"
)
"""What stands behind an option: the word for its value, or a value that is no word of English."""

_OPTION = rf"(?<![\w'\"-])--(?P<option>[a-z]+(?:-[a-z]+)*)(?![\w-])(?:{_VALUE})?"
_PAIR = r"--map ([a-z]+)=('[^']*'|\S*?)(?=[,;:)]?(?:\s|$))"
_MAP = rf"(?<![\w'\"-])(?P<map>{_PAIR}(?: {_PAIR})*)"
_NAMES = re.compile(f"{_KEPT}|{_MAP}|{_OPTION}")

_QUOTE = "'"

_SWITCHES = frozenset(
    ("allow-absolute-paths", "allow-pickle-weights", "files", "number-rows", "overwrite", "ray",
     "redo-damaged", "strict", "text-only")
)  # fmt: skip
"""Options without a value."""


def option_of(argument: str) -> str:
    """Return the command-line option of a Python argument.

    >>> option_of("max_new_tokens"), with_arguments(option_of("max_new_tokens"))
    ('--max-new-tokens', 'max_new_tokens')
    """
    return f"--{argument.replace('_', '-')}"


def with_arguments(text: str, names: Mapping[str, str] | None = None) -> str:
    """Return a message with its command-line options replaced by Python arguments.

    Args:
        text: The message.
        names: Argument that an option usually is → argument that it is here.

    >>> with_arguments("--out runs/a: is a run", {"out": "folder"})
    'folder runs/a: is a run'
    >>> with_arguments("--max-new-tokens -1: give 0 or more")
    'max_new_tokens -1: give 0 or more'
    >>> with_arguments("2 rows have no image; pass --text-only, or --map image=COLUMN")
    "2 rows have no image; pass text_only=True, or map={'image': 'COLUMN'}"
    >>> with_arguments("no such file; pass --images DIR, or load it with --dtype float32")
    "no such file; pass images=DIR, or load it with dtype='float32'"
    >>> with_arguments("--out report_2.html: is a folder; give --batch-size auto")
    "out report_2.html: is a folder; give batch_size='auto'"
    >>> with_arguments("no labels yet; run 'vlmscope label run --name human' first")
    "no labels yet; run 'vlmscope label run --name human' first"
    """
    return _NAMES.sub(partial(_argument, names=names or {}), text)


def _argument(found: re.Match[str], names: Mapping[str, str]) -> str:
    if found["map"]:
        pairs = re.findall(_PAIR, found["map"])
        return f"map={ {name: column.strip(_QUOTE) for name, column in pairs} }"
    if found["option"]:
        name = found["option"].replace("-", "_")
        name = names.get(name, name)
        if found["option"] in _SWITCHES:
            return f"{name}=True{found[0].partition(found['option'])[2]}"
        if found["metavar"]:
            return f"{name}={found['metavar']}"
        return f"{name}='{found['value']}'" if found["value"] else name
    return found[0]


class _Audience:
    """Whether messages of this process are for the command line or for Python."""

    is_command_line = False


@contextmanager
def naming_options(on: bool = True) -> Iterator[None]:
    """Make messages name command-line options, in all threads: this is a command-line process."""
    before, _Audience.is_command_line = _Audience.is_command_line, on
    try:
        yield
    finally:
        _Audience.is_command_line = before


def names_options() -> bool:
    """Return whether messages name command-line options."""
    return _Audience.is_command_line


class VlmscopeError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[int] = 1
    """Exit code of the command line: 1 unless the caller can correct it before anything is done."""

    argument_names: Mapping[str, str] = {}
    """Argument that an option usually is → argument that it is in the function that was called."""

    def __str__(self) -> str:
        text = " ".join(map(str, self.args))
        return text if _Audience.is_command_line else with_arguments(text, self.argument_names)


@contextmanager
def naming_arguments(**names: str) -> Iterator[None]:
    """Name options by other arguments in errors; the outermost name counts.

    Args:
        names: Argument that an option usually is → argument that it is here.
    """
    try:
        yield
    except VlmscopeError as error:
        error.argument_names = {**error.argument_names, **names}
        raise


class InputError(VlmscopeError, ValueError):
    """An argument, the data or a path is wrong. Nothing was done."""

    exit_code = 2


class UnknownIdError(InputError, KeyError):
    """A run has no question with that id."""


class RowNumberError(InputError, IndexError):
    """A run has no row with that number."""


class ModelError(VlmscopeError):
    """The checkpoint cannot be loaded, or failed its checks. Nothing was done."""

    exit_code = 2


class ModelChangedError(ModelError):
    """The checkpoint was modified while the model computed. What was recorded before is valid."""

    exit_code = 1


class RunMismatchError(VlmscopeError):
    """The run folder contains rows made with other settings. Nothing was done."""

    exit_code = 2


class RunBusyError(VlmscopeError):
    """Another process is writing the run. Nothing was done."""

    exit_code = 2


class TableChangedError(VlmscopeError):
    """The table changed after it was checked. Rows read before that are unchanged."""

    def __init__(self, message: str, *, appended: bool = False) -> None:
        super().__init__(message)
        self.appended = appended
        """Whether every checked row was read unchanged, and more rows follow."""

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(TableChangedError, appended=self.appended), self.args


class StoreError(VlmscopeError):
    """A run could not be written or read."""


class UnreachableError(StoreError):
    """The object store with the run does not answer. That is no sign of damage."""


class EarlierVersionError(StoreError):
    """An intact file lacks what this version reads: an earlier version wrote it."""


class ToleranceError(VlmscopeError):
    """Stored rows differ from the reference method by more than the tolerance."""


class RowError(VlmscopeError):
    """One row failed, at ``stage``: see ``Failure.stage``."""

    exit_code = 2

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(without_middle(message, LONGEST_ROW_ERROR))
        self.stage = stage


LONGEST_ROW_ERROR = 2_000
"""Most characters recorded of a row's error: a message may quote the row."""


def without_middle(message: str, most: int) -> str:
    """Cut the middle out of a message that is too long; its location and the remedy remain.

    >>> without_middle("abcdef", 4), without_middle("abcd", 4)
    ('ab … ef', 'abcd')
    """
    if len(message) <= most:
        return message
    half = most // 2
    return f"{message[:half]} … {message[-half:]}"


def join_names(names: Iterable[str], most: int = 50) -> str:
    r"""Return names from a file as one line for a message: the first ones, shortened.

    >>> join_names(["a", "b\n", "c"]), join_names("abc", 2)
    ("a, 'b\\n', c", 'a, b and 1 more')
    """
    every = list(names)
    shown = [shortened(name, 60) for name in every[:most]]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in shown) + more


def suggest_names(wanted: str, known: Iterable[str]) -> str:
    """Return the existing names closest to an unknown one, else the first few, for a message.

    Args:
        wanted: The name.
        known: All names, of which the first ``MOST_COMPARED`` are compared.

    >>> suggest_names("demo_11", ["demo_1", "tree"]), suggest_names("x", ["a", "b", "c", "d"])
    ("did you mean 'demo_1'?", "there are 'a', 'b', 'c' …")
    """
    names = list(islice(known, MOST_COMPARED))
    near = get_close_matches(shortened(wanted, 200), names, n=3)
    if near:
        return f"did you mean {', '.join(repr(shortened(name)) for name in near)}?"
    first = ", ".join(repr(shortened(name)) for name in names[:3])
    return f"there {'is' if len(names) == 1 else 'are'} {first or 'none'}{' …' * (len(names) > 3)}"


MOST_COMPARED = 20_000
"""Names compared with an unknown one: takes about a second."""

LONGEST_MESSAGE = 200
"""Most characters quoted of a library's message."""


def one_line(error: BaseException) -> str:
    r"""Return a library's error in one line, shortened.

    >>> one_line(ValueError("no such\n  thing")), one_line(ValueError())
    ('no such thing', 'ValueError')
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"


def typed_line(error: BaseException) -> str:
    """Return a library's error in one line, with its type where the message needs it.

    >>> typed_line(ValueError("no such thing")), typed_line(KeyError("width"))
    ('no such thing', "KeyError: 'width'")
    """
    plain = isinstance(error, OSError | ValueError | RuntimeError | ImportError)
    return one_line(error) if plain else named_line(error)


def named_line(error: BaseException) -> str:
    r"""Return a library's error in one line, with its type: for unexpected errors.

    >>> named_line(ValueError("no such\n  thing")), named_line(ValueError())
    ('ValueError: no such thing', 'ValueError')
    """
    name, said = type(error).__name__, one_line(error)
    return said if said == name else f"{name}: {said}"


LONGEST_QUOTE = 80
"""Most characters quoted of a cell or an id."""


def shortened(text: str, limit: int = LONGEST_QUOTE) -> str:
    """Return a text as a message quotes it: a long one is cut after its beginning.

    >>> shortened("question_comb_7"), len(shortened("x" * 70_000))
    ('question_comb_7', 81)
    """
    return text if len(text) <= limit else f"{text[:limit]}…"
