"""A plot on disk: three whole files, and data that a spreadsheet cannot be tricked with."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import BytesIO, StringIO
from xml.etree import ElementTree as ET

import pytest
from PIL import Image
from plot_examples import HOSTILE, category_plot, every_plot, layers_plot, roc_plot

from vlmscope.plots import PALETTE, csv_text, plot_files


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline="")))


def test_the_data_come_back() -> None:
    plot = layers_plot()
    rows = read(csv_text(plot))
    assert [row["title"] for row in rows] == plot.columns["title"]
    assert [float(row["auroc"]) for row in rows] == pytest.approx(plot.columns["auroc"], rel=1e-5)
    assert [row["layer"] for row in rows] == ["0", "2", "5", "7", "9"] * 2 + [""] * 3


def test_names_come_back_whole_but_for_what_no_file_can_hold() -> None:
    names = [name for name in HOSTILE if name.isprintable() and not name.startswith("=")]
    names += ["a, b", 'say "no"', "two\r\nlines", "carriage\rreturn", "x" * 500]
    rows = read(csv_text(category_plot(names)))
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert read(csv_text(category_plot(["half \ud83d"])))[0]["name"] == "half ?"


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "=cmd|' /C calc'!A0"]
)
def test_no_text_is_a_formula(name: str) -> None:
    assert read(csv_text(category_plot([name])))[0]["name"] == f"'{name}"


def test_numbers_may_be_negative_unknown_and_long() -> None:
    columns = {"number": [-1.5, float("nan"), None, 1 / 3, 12345678]}
    text = csv_text(replace(roc_plot(), columns=columns))
    assert text.split("\r\n")[1:-1] == ["-1.5", '""', '""', "0.333333", "12345678"]


def test_ragged_data_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        csv_text(replace(roc_plot(), columns={"a": [1], "b": [1, 2]}))


@pytest.mark.first(2)
@pytest.mark.parametrize("number", range(7))
def test_three_files_of_each(number: int) -> None:
    plot = every_plot()[number]
    files = plot_files(plot)
    assert list(files) == [f"{plot.name}.{suffix}" for suffix in ("svg", "png", "csv")]
    svg, png, data = files.values()
    with Image.open(BytesIO(png)) as image:
        wide, high = plot.figure.get_size_inches() * 200
        assert image.size == pytest.approx((wide, high), abs=1)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    root = ET.fromstring(svg)  # noqa: S314
    assert root.get("width") == f"{plot.figure.get_figwidth() * 72:g}pt"
    assert b"var(" not in svg
    assert f"fill:{PALETTE['paper']}" in root[2].get("style", "")
    assert data.decode() == csv_text(plot)
