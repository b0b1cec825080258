"""The record of the conformance suite and its tables: of these families, of these checks."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

import decoding_table
import record_families
from families.conformance import FAMILIES as IN_THE_SUITE
from families.conformance import SINCE
from families.test_conformance import GENERATED
from vlmscope.cli import main
from vlmscope.model import FAMILIES
from vlmscope.model.support import CHECKS, family_support, read_record

ROOT = Path(__file__).parents[2]


def pinned(package: str) -> str:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.findall(rf"^{package}==(\S+)$", text, re.MULTILINE)[0]


def test_every_family_has_a_description_and_a_checkpoint() -> None:
    assert {record_families.KEYS.get(name, name) for name in IN_THE_SUITE} == set(FAMILIES)


NO_COLUMN = (
    "the_other_rows_equal_three",  # belongs to the column of the first two
    "images_where_placeholders_stand",  # which some templates refuse
    "questions_about_one_image_share_its_prompt",  # which some decoders do not allow
    "worker_processes_prepare_the_same",
    "images_in_one_piece_have_the_same_numbers",
    "images_one_at_a_time_have_the_same_numbers",
    "the_lens_of_the_last_layer_is_the_models_own",
)
"""Tests of the suite that are described beside the table."""


def test_the_columns_are_the_tests_that_every_family_passes() -> None:
    suite = importlib.import_module("families.test_conformance")
    found = {
        name.removeprefix("test_")
        for name, function in inspect.getmembers(suite, inspect.isfunction)
        if name.startswith("test_")
    }
    assert found == {*CHECKS, *NO_COLUMN}


def test_every_family_is_proven_on_the_pinned_version_and_nearly_all_on_the_oldest() -> None:
    newest, oldest = pinned("transformers"), "5.17.0"
    proven = {standing.key: standing.verified_on for standing in family_support()}
    assert {key for key, versions in proven.items() if newest not in versions} == set()
    assert {key for key, versions in proven.items() if oldest not in versions} == {*SINCE}


def test_a_failed_check_is_no_proof() -> None:
    checks = dict.fromkeys(CHECKS, True)
    record = {"5.23.0": {"llava": checks | {"no_image_in_the_question": False}}}
    record["5.9.0"] = {"llava": checks}
    [llava] = [standing for standing in family_support(record) if standing.key == "llava"]
    assert llava.verified_on == ("5.9.0",)
    assert llava.failed == {"5.23.0": ("no_image_in_the_question",)}
    assert "✗" in record_families.tables(record)


def test_the_page_has_the_table_of_the_record() -> None:
    text = record_families.DOCUMENT.read_text(encoding="utf-8")
    table = text.partition(record_families.BEGIN + "\n")[2].partition(record_families.END)[0]
    assert table == record_families.tables(read_record())


def test_the_page_has_the_pairs_of_the_code() -> None:
    text = record_families.DOCUMENT.read_text(encoding="utf-8")
    table = text.partition(record_families.PAIRS_BEGIN + "\n")[2]
    assert table.partition(record_families.PAIRS_END)[0] == record_families.pairs()


def test_the_command_lists_them_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vlmscope", "models", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    shown, listed = run(), json.loads(run("--json"))
    assert [family["model_type"] for family in listed] == list(FAMILIES)
    for family in FAMILIES.values():
        assert family.title in shown


def test_the_page_says_how_each_family_is_decoded() -> None:
    """As the conformance suite sees it of a model that was loaded."""
    assert decoding_table.tables() in decoding_table.PAGE.read_text("utf-8"), (
        "run scripts/decoding_table.py"
    )
    ways = decoding_table.ways()
    slots = ways.pop(decoding_table.IN_SLOTS_TITLE)
    generated = [title for titles in ways.values() for title in titles]
    keys = [record_families.KEYS.get(name, name) for name in GENERATED]
    assert sorted(generated) == sorted(FAMILIES[key].title for key in keys)
    assert sorted(slots + generated) == sorted(family.title for family in FAMILIES.values())
