"""Messages: the command line's options there, arguments in Python; and what else an error is."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from vlmscope.cli import options
from vlmscope.dataset import Share, parse_mapping
from vlmscope.errors import (
    InputError,
    RowError,
    UnknownIdError,
    VlmscopeError,
    naming_arguments,
    naming_options,
    with_arguments,
)
from vlmscope.executors import share_of
from vlmscope.schema import CaptureSpec
from vlmscope.selection import resolve_layers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--out runs/a--b: is a file", "out runs/a--b: is a file"),
        ("no column; say which with --map id=uid --map image='a b', or pass --number-rows",
         "no column; say which with map={'id': 'uid', 'image': 'a b'}, or pass number_rows=True"),
        ("pass --map id=set,figure, which differ, or", "pass map={'id': 'set,figure'}, which "
         "differ, or"),
        ("t.csv: --map category=kind: the table has", "t.csv: map={'category': 'kind'}: the table "
         "has"),
        ("--map category='my kind': this", "map={'category': 'my kind'}: this"),
        ("--map id='' for the column without a name", "map={'id': ''} for the column without a "
         "name"),
        ("run 'vlmscope label r --labels FILE' first, then without --labels",
         "run 'vlmscope label r --labels FILE' first, then without labels"),
        ("run vlmscope label /a.b/r --name x, or give --out", "run vlmscope label /a.b/r --name x, "
         "or give out"),
        ("the value '--layers' in a cell stays", "the value '--layers' in a cell stays"),
        ("no option at all -- none", "no option at all -- none"),
    ],
)  # fmt: skip
def test_options_become_arguments(text: str, expected: str) -> None:
    assert with_arguments(text) == expected
    assert with_arguments(expected) == expected, "twice is once"


@pytest.mark.parametrize(
    ("wrong", "argument", "option"),
    [
        (lambda: CaptureSpec(max_new_tokens=-1), "max_new_tokens -1", "--max-new-tokens -1"),
        (lambda: CaptureSpec(positions=("x",)), "positions", "--positions"),
        (lambda: resolve_layers("x", 3), "layers 'x'", "--layers 'x'"),
        (lambda: Share(3, 2), "shard 3/2", "--shard 3/2"),
        (lambda: share_of("x", {}), "shard 'x'", "--shard 'x'"),
        (lambda: parse_mapping(["id=a"], number_rows=True), "number_rows=True", "--number-rows"),
    ],
)
def test_an_error_names_the_argument_in_python_and_the_option_on_the_command_line(
    wrong: Callable[[], object], argument: str, option: str
) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        wrong()
    assert isinstance(caught.value, InputError)
    assert "--" not in str(caught.value)
    with naming_options():
        assert option in str(caught.value)
        assert f"x: {caught.value}".count(option), "also in a message around it"
    assert "--" not in str(caught.value), "afterwards again"


def test_a_function_may_call_its_argument_otherwise() -> None:
    """The outermost function is the one that was called."""

    @naming_arguments(out="path")
    def inner() -> None:
        raise InputError("--out a: is a run of vlmscope extract --out; give --seed")

    with pytest.raises(InputError, match=r"^folder a: .* extract --out; give seed$") as caught:
        naming_arguments(out="folder")(inner)()
    with naming_options():
        assert str(caught.value).startswith("--out a")


def test_errors_survive_a_process_border() -> None:
    for error in (InputError("--out a"), UnknownIdError("no 'x'; give --out")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert type(again) is type(error)
        with naming_options():
            assert str(again) == error.args[0]


def test_an_unknown_id_reads_as_a_line() -> None:
    """A ``KeyError`` alone would show its message in quotes."""
    error = UnknownIdError("runs/a: no question 'x'")
    assert isinstance(error, KeyError)
    assert isinstance(error, ValueError)
    assert str(error) == "runs/a: no question 'x'"


def test_errors_of_rows_are_no_value_errors() -> None:
    assert not isinstance(RowError("input", "x"), ValueError)


def test_a_bad_url_keeps_its_own_message_on_the_command_line() -> None:
    """typer turns a ``ValueError`` of a parser into a message of its own."""
    with pytest.raises(VlmscopeError, match="nowhere://") as caught:
        options.path_or_url("nowhere://bucket/run")
    assert not isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2
