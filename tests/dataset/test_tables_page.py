"""The page on tables says what is true: its examples are read, its code and commands are run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from material import make_image
from vlmscope import demo
from vlmscope.dataset import open_table, parse_mapping, read_samples
from vlmscope.dataset.rows.columns import KNOWN
from vlmscope.dataset.tables.opening import READERS
from vlmscope.store import open_run

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text("utf-8")
PAIR = ("left.png", "right.png")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that the examples name, with the page's own tables."""
    (tmp_path / "images").mkdir()
    for number, name in enumerate(PAIR):
        make_image("one", number).save(tmp_path / "images" / name)
    (tmp_path / "MODEL").symlink_to(Path(demo.__file__).parent / "model")
    for name, text in zip(("mapped", "quoted", "text"), blocks("csv"), strict=True):
        (tmp_path / f"{name}.csv").write_text(text, "utf-8")
    [lines] = blocks("jsonl")
    (tmp_path / "pairs.jsonl").write_text(lines, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_code() -> None:
    for code in blocks("python"):
        exec(compile(code, "tables.md", "exec"), {})  # noqa: S102 - the test's purpose


def test_every_known_column_and_format_is_named() -> None:
    for field, names in KNOWN.items():
        assert f"| `{field}` | {', '.join(f'`{name}`' for name in names)} |" in PAGE
    assert all(f"`{suffix}`" in PAGE for suffix in READERS)


def test_several_images_are_the_same_in_every_format(folder: Path) -> None:
    run_code()
    tables = ("pairs.jsonl", "quoted.csv", "pairs.csv", "pairs.parquet")
    opened = [open_table(name, images="images") for name in tables]
    assert len({table.scan().fingerprint for table in opened}) == 1
    first, second = read_samples("pairs.csv", images="images")
    assert first.images == tuple(folder / "images" / name for name in PAIR)
    assert second.images == (folder / "images" / "left.png",)
    [held] = read_samples("pairs")
    assert held.images == tuple((folder / "images" / name).read_bytes() for name in PAIR)


def test_what_is_mapped_and_what_is_metadata(folder: Path) -> None:
    fields = parse_mapping(["id=qid", "image=photo", "target=gold"])
    first, second = read_samples("mapped.csv", images="images", fields=fields)
    assert (first.id, first.image_id, first.target) == ("q1", "left.png", "yes")
    assert second.metadata == {"topic": "colours"}


@pytest.mark.exhaustive
def test_the_commands_work(folder: Path, python: str) -> None:
    run_code()
    commands = "".join(blocks("bash"))
    script = f'set -euo pipefail\nvlmscope() {{ "{python}" -m vlmscope "$@"; }}\n{commands}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 images" in done.stdout
    runs = {name: open_run(folder / "runs" / name) for name in ("mapped", "pairs", "text")}
    assert {len(run) for run in runs.values()} == {2}
    imaged, bare = runs["pairs"]["p1"], runs["text"]["t1"]
    lost = {path.split("/")[0] for path in set(imaged.vectors) - set(bare.vectors)}
    assert lost == {"vision_only_representation", "vision_token_representation"}
    assert all(f"`{name}`" in PAGE for name in lost)
    assert (imaged.image_sha256.count("+"), bare.image_sha256) == (1, "")
