"""Run folders that were made to have other files removed, moved or overwritten: every command.

A home folder holds a person's own files and a run that came from somebody else. Whatever a command
makes of the run, every file of the person's and every row of the run is there afterwards.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fewer_forms import fewer_forms
from store_support import make_capture, make_manifest
from vlmscope.cli.paths import check_file
from vlmscope.errors import InputError, StoreError, VlmscopeError
from vlmscope.executors import plan
from vlmscope.labelling import label
from vlmscope.report import write_report
from vlmscope.risk.probe_of import find_probe
from vlmscope.schema import Failure, Score
from vlmscope.score.judge import Verdict, VerdictCache
from vlmscope.store import (
    ALONE,
    FailureLog,
    RunWriter,
    export_run,
    find_damage,
    open_run,
    set_aside,
    write_labels,
)
from vlmscope.store.format.checksums import seal_on
from vlmscope.sweeps import SweepResult, SweepSpec, save_sweep, sweep
from vlmscope.sweeps.save import check_outside

pytestmark = pytest.mark.usefixtures("columns_only")

ROWS = 60
PROBES = ("probe", "--draws", "100", "--folds", "3")
SELECTED = "query_token_representation-layer_2"

Command = Callable[..., Any]
Mutation = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a labelled run in it, and files of the person's own."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    run = home / "run"
    rng = np.random.default_rng(1)
    captures = []
    for i in range(ROWS):
        image = int(rng.integers(0, 2**63))
        captures.append(make_capture(i, image_sha256=f"{image:064x}", image_dhash=f"{image:016x}"))
    with RunWriter(run, make_manifest()) as writer:
        writer.add(captures)
    write_labels(
        run,
        [Score(item.sample.id, i % 3 == 0, "column", "made") for i, item in enumerate(captures)],
        {},
    )
    for name in ("thesis.txt", "run/notes.txt", "photos/cat.txt", "photos/probe.json"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(f"my own {name}")
    return home


@pytest.fixture(scope="module")
def result(made: Path) -> SweepResult:
    spec = SweepSpec(draws=100, folds=3, repeats=1, permutations=100)
    with fewer_forms():
        return sweep(open_run(made / "run"), spec)


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home"))


def kept(home: Path) -> dict[str, bytes]:
    """The person's own files, the rows and the labels."""
    names = ["thesis.txt", "run/notes.txt", "photos/cat.txt", "photos/probe.json", "run/run.json"]
    shards = [str(path.relative_to(home)) for path in (home / "run/shards").glob("*.h5")]
    return {name: (home / name).read_bytes() for name in (*names, *shards)}


def sweep_said(folder: object) -> Mutation:
    """``results.json`` of a stranger, which says where the probes of an older sweep are."""

    def mutate(home: Path) -> None:
        probes = home / "run/probes"
        probes.mkdir()
        (home / "run/probe.json").write_text("{}")  # a folder counts by what lies in it
        (home / "probe.json").write_text("{}")
        text = {"vlmscope_version": "0", "probes": [{"folder": folder}], "selected_probe": folder}
        (probes / "results.json").write_text(json.dumps(text))

    return mutate


def linked(name: str, target: str) -> Mutation:
    """A name of ours in the run that is a link."""

    def mutate(home: Path) -> None:
        path = home / "run" / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)

    return mutate


def both(*mutations: Mutation) -> Mutation:
    def mutate(home: Path) -> None:
        for each in mutations:
            each(home)

    return mutate


FOLDERS: tuple[Any, ...] = (
    "..", ".", "", "../..", "../photos", "a/../..", "/", "..\0", None, 7, ["..", "."], {"a": ".."},
)  # fmt: skip


@pytest.mark.first(1)
@pytest.mark.parametrize("folder", FOLDERS, ids=repr)
def test_probe_removes_nothing_that_a_file_names(
    home: Path, result: SweepResult, folder: object
) -> None:
    sweep_said(folder)(home)
    before = kept(home)
    with pytest.raises(VlmscopeError, match=r"names no selected probe|is missing or incomplete"):
        find_probe(home / "run/probes")
    save_sweep(open_run(home / "run"), result)
    assert kept(home) == before
    assert (home / "run/probe.json").exists()
    assert (home / "probe.json").exists()


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("folder", ["..", "."])
def test_the_command_removes_nothing_either(vlmscope: Command, home: Path, folder: str) -> None:
    sweep_said(folder)(home)
    before = kept(home)
    assert vlmscope(*PROBES, home / "run").code == 0
    assert kept(home) == before


def test_a_folder_of_an_older_sweep_keeps_what_is_not_ours(home: Path, result: SweepResult) -> None:
    probes = home / "run/probes"
    save_sweep(open_run(home / "run"), result)
    told = json.loads((probes / "results.json").read_text("utf-8"))
    old, older = (f"answer_mean_representation-layer_{layer}" for layer in (1, 2))
    for name in (old, older, "keepsake"):
        shutil.copytree(probes / told["probes"][0]["folder"], probes / name)
        told["probes"].append({"folder": name, "known": "before"})
    (probes / old / "notes.txt").write_text("my notes on this probe")
    (probes / "linked").symlink_to(home / "photos")
    told["probes"].append({"folder": "linked", "known": "before"})
    (probes / "results.json").write_text(json.dumps(told))
    before = kept(home)
    (probes / "linked").unlink()  # a link out of the run is refused as such
    (probes / "linked").symlink_to("..")
    save_sweep(open_run(home / "run"), result)
    assert kept(home) == before
    assert [path.name for path in (probes / old).iterdir()] == ["notes.txt"]
    assert not (probes / older).exists()
    assert (probes / "keepsake/probe.json").exists(), "no sweep gives such a name"
    assert (probes / "linked").is_symlink()


MUTATIONS: dict[str, Mutation] = {
    "probes is the run": linked("probes", "."),
    "probes is the home": linked("probes", ".."),
    "probes is the shards": linked("probes", "shards"),
    "probes is the run, and names itself": both(
        linked("probes", "."),
        lambda home: (
            (home / "run/results.json").write_text(
                json.dumps({"vlmscope_version": "0", "probes": [{"folder": "shards"}]})
            )
            and None
        ),
    ),
    "a probe's folder is the run": linked(f"probes/{SELECTED}", ".."),
    "a probe's folder is outside": linked(f"probes/{SELECTED}", "../../photos"),
    "plots is the shards": linked("plots", "shards"),
    "plots is outside": linked("plots", "../photos"),
    "report.html is a row": linked("report.html", "../thesis.txt"),
    "labels are outside": linked("labels.json", "../thesis.txt"),
    "damaged is outside": linked("damaged", "../photos"),
    "damaged is the shards": linked("damaged", "shards"),
    "a lock is outside": linked(".lock-probes", "../thesis.txt"),
    "a marker is outside": linked(".marker-000", "../thesis.txt"),
    "a hidden file is outside": linked(".report.html.tmp", "../thesis.txt"),
}


@pytest.mark.first(2)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_links_within_the_run_and_out_of_it(home: Path, result: SweepResult, mutation: str) -> None:
    MUTATIONS[mutation](home)
    before = kept(home)
    run = home / "run"
    commands: tuple[Callable[[], object], ...] = (
        lambda: label(open_run(run)),
        lambda: save_sweep(open_run(run), result),
        lambda: write_report(open_run(run)),
        lambda: RunWriter(run, make_manifest()).__enter__().close(),
    )
    for command in commands:
        with contextlib.suppress(VlmscopeError):
            command()
        assert kept(home) == before
        assert sorted(path.name for path in (home / "photos").iterdir()) == [
            "cat.txt",
            "probe.json",
        ]
        assert all(path.suffix == ".h5" for path in (run / "shards").iterdir())


@pytest.mark.parametrize("target", [".", "..", "../photos", "shards", "nowhere"])
def test_damage_is_not_moved_through_a_link(vlmscope: Command, home: Path, target: str) -> None:
    run = home / "run"
    [path] = (run / "shards").glob("*.h5")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    damages = find_damage(run)
    assert [damage.path for damage in damages] == [path]
    (run / "damaged").symlink_to(target)
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match=r"symbolic link|cannot be"):
        set_aside(run, damages)
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and p in before} == before


def test_a_pack_that_claims_rows_which_it_lacks_has_none_removed(home: Path) -> None:
    """``supersedes`` has parts removed: only those whose rows the pack really holds."""
    run = home / "run"
    rows = [make_capture(i) for i in range(100, 104)]
    writer = RunWriter(run, make_manifest())
    writer.__enter__()
    writer.add(rows)
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    [part] = (run / "shards").glob("part-*.h5")
    [pack] = (run / "shards").glob("pack-*.h5")
    assert seal_on(pack)
    with h5py.File(pack, "r+") as file:
        file.attrs["supersedes"] = [part.name, pack.name, "../../thesis.txt"]
    with RunWriter(run, make_manifest()) as again:
        assert len(again.done_ids) == ROWS + len(rows)
    assert len(open_run(run)) == ROWS + len(rows)
    assert open_run(run)["question_comb_102"].answer == rows[2].answer
    assert (home / "thesis.txt").read_text() == "my own thesis.txt"


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("name", "text"),
    [("results.json", '{"accuracy": 0.9}'), ("results.json", "my results"), ("results.json", "[]")],
)
def test_a_result_of_somebody_elses_is_not_replaced(
    vlmscope: Command, home: Path, name: str, text: str
) -> None:
    (home / "photos" / name).write_text(text)
    found = vlmscope(*PROBES, home / "run", "--out", home / "photos")
    assert found.code == 2
    assert "is not a result of vlmscope probe" in found.err
    assert (home / "photos" / name).read_text() == text
    assert not list((home / "photos").glob("*.parquet"))


WRITERS: dict[str, Command] = {
    "report": lambda run, folder: write_report(run, out=folder / "page.html"),
    "export": lambda run, folder: export_run(run, folder / "rows.h5"),
    "export as parquet": lambda run, folder: export_run(run, folder / "rows.parquet"),
    "a table of risks or labels": lambda _, folder: check_file(folder / "risks.csv"),
    "probe": lambda run, folder: check_outside(folder, run),
    "probe, deeper": lambda run, folder: check_outside(folder / "deeper", run),
    "extract": lambda _, folder: plan._check_folder(folder / "run", ALONE, 0),
    "extract, the folder": lambda _, folder: plan._check_folder(folder, ALONE, 0),
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_written_among_the_own_files_of_a_run(home: Path, name: str) -> None:
    run = home / "run"
    for folder in ("plots", "damaged", "probes-mine"):
        (run / folder).mkdir()
    (home / "link").symlink_to(run / "shards")
    folders = [run / "shards", run / "plots", run / "damaged", home / "link"]
    folders += [] if name.startswith("probe") else [run / "probes-mine"]  # its own, if so named
    before = sorted(home.rglob("*"))
    for folder in folders:
        with pytest.raises(InputError, match=r"is a part of the run .*; give another"):
            WRITERS[name](run, folder)
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("name", ["index.h5", "labels.parquet", "labels-mine.parquet"])
def test_an_export_is_no_file_of_the_run(home: Path, name: str) -> None:
    before = kept(home), (home / "run" / "labels.parquet").read_bytes()
    with pytest.raises(InputError, match=r"is a part of the run .*; give another name"):
        export_run(home / "run", home / "run" / name, overwrite=True)
    assert (kept(home), (home / "run" / "labels.parquet").read_bytes()) == before
    export_run(home / "run", home / "run" / f"my-{name}")


@pytest.mark.exhaustive
def test_a_report_replaces_only_a_report(vlmscope: Command, home: Path) -> None:
    page = home / "page.html"
    page.write_text("<h1>My page</h1>")
    found = vlmscope("report", home / "run", "--out", page)
    assert (found.code, page.read_text()) == (2, "<h1>My page</h1>")
    assert "is not a vlmscope report" in found.err
    page.unlink()
    figures = home / "page-plots"
    figures.mkdir()
    (figures / "category_rates.png").write_text("my figure")
    (figures / "other.png").write_text("another figure")
    found = vlmscope("report", home / "run", "--out", page)
    assert (found.code, page.exists()) == (2, False)
    assert "category_rates.png, which no report there made" in found.err
    assert (figures / "category_rates.png").read_text() == "my figure"
    (figures / "category_rates.png").unlink()
    for _ in range(2):
        assert vlmscope("report", home / "run", "--out", page).code == 0
        assert (figures / "other.png").read_text() == "another figure"
        assert (figures / "category_rates.png").stat().st_size > 1000


@pytest.mark.parametrize("target", ["run.json", "notes.txt", "shards", "../thesis.txt"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_log_that_is_another_file_is_not_appended_to(home: Path, target: str, hard: bool) -> None:
    run = home / "run"
    if target == "shards":
        target = str(next((run / "shards").glob("*.h5")).relative_to(run))
    before = kept(home)
    for name in ("failures.jsonl", "judge.jsonl"):
        if hard:
            (run / name).hardlink_to(run / target)
        else:
            (run / name).symlink_to(target)
    with pytest.raises(StoreError, match=r"\.jsonl.*(symbolic link|hard link)"):
        FailureLog(run).add(Failure("a", "image", "not found"))
    verdict = Verdict(True, "no")
    with pytest.raises(StoreError, match="link"), VerdictCache(run / "judge.jsonl", "m") as cache:
        cache.put("key", verdict)
    assert kept(home) == before


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "name", ["results.parquet", "predictions.parquet", f"{SELECTED}/probe.json"]
)
def test_probe_replaces_no_file_of_the_same_name(
    home: Path, result: SweepResult, name: str
) -> None:
    for folder in (home / "photos", home / "photos/probes"):
        mine = folder / name
        for each in ("vision_only_representation", SELECTED):
            (folder / each).mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        (folder / "vision_only_representation/probe.json").write_text("mine too")
        with pytest.raises(
            InputError, match="exists without a sweep in the same folder; give another folder"
        ):
            save_sweep(open_run(home / "run"), result, folder)
        assert mine.read_text() == "mine"
        (folder / "results.json").write_text('["vlmscope_version", "results"]')
        with pytest.raises(InputError, match="is not a result of vlmscope probe"):
            save_sweep(open_run(home / "run"), result, folder)


def test_a_name_that_no_file_can_have_is_no_probe(home: Path, result: SweepResult) -> None:
    sweep_said("a" * 300)(home)
    with pytest.raises(StoreError, match="names no selected probe"):
        find_probe(home / "run/probes")
    save_sweep(open_run(home / "run"), result)


def test_a_pack_with_an_attribute_of_an_odd_type_is_damaged(home: Path) -> None:
    [pack] = (home / "run/shards").glob("*.h5")
    with h5py.File(pack, "r+") as file:
        file.attrs.pop("supersedes", None)
        h5py.h5a.create(file.id, b"supersedes", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((2,)))
    with pytest.raises(StoreError, match="damaged"):
        open_run(home / "run")
