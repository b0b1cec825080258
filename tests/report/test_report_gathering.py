"""What a report says of real runs: complete, poor, and with their surroundings gone."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewer_forms import fewer_forms
from material import QUESTIONS, make_image
from store_support import make_captures, make_manifest
from vlmscope import extract
from vlmscope.dataset import hash_image
from vlmscope.errors import InputError, StoreError
from vlmscope.metrics import measure
from vlmscope.report import Document, ReportSpec, figures, write_report
from vlmscope.report.build import Gathered, gather
from vlmscope.report.figures import NAMES
from vlmscope.report.render import render
from vlmscope.report.thumbnails import SIDES, Thumbnails
from vlmscope.report.transfers import transfers
from vlmscope.report.write import with_images
from vlmscope.schema import CaptureSpec, Failure, Score
from vlmscope.store import (
    FailureLog,
    RunWriter,
    open_run,
    read_labels,
    write_labels,
    write_manifest,
)
from vlmscope.sweeps import SavedSweep, SweepSpec, read_sweep, save_sweep, splitting, sweep
from without_row_groups import without_row_groups

IMAGES = 12
ROWS = 3 * IMAGES
UNSCORABLE = "q4"
POSITIONS = ("last_image_token", "last_prompt_token", "last_question_token")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Folder of a table, its images, and a run of it with labels and probes."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "images").mkdir()
    for i in range(IMAGES):
        make_image("one", i).resize((300, 240)).save(folder / "images" / f"{i}.png")
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["question_id", "image_name", "question", "gt_answer", "category", "source"]
        )
        for i in range(ROWS):
            question, category = QUESTIONS[i % len(QUESTIONS)], ("count", "colour", "safe")[i % 3]
            writer.writerow([f"q{i}", f"{i // 3}.png", question, "Yes", category, f"s{i % 4 // 2}"])
    with without_row_groups():
        run = extract(
            folder / "questions.csv",
            model=checkpoint,
            out=folder / "run",
            images=str(folder / "images"),
            spec=CaptureSpec(
                max_new_tokens=4, positions=POSITIONS, layers=(0, 4, 7), signals="attention,lens"
            ),
            device="cpu",
            batch_size=8,
        )
    flips = np.random.default_rng(3).random(ROWS) < 0.5
    scores = [
        Score(
            id_,
            None if id_ == UNSCORABLE else bool(flips[i] and i % 3 != 2),
            "column",
            "no label: said so" if id_ == UNSCORABLE else "planted",
        )
        for i, id_ in enumerate(f"q{i}" for i in range(ROWS))
    ]
    write_labels(run.path, scores, {"scorer": "column", "column": "planted"})
    with fewer_forms():
        save_sweep(run, sweep(run, SweepSpec(folds=3, repeats=2, permutations=100, draws=50)))
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of all of it that a test may change, where the run's manifest says."""
    home = shutil.copytree(made, tmp_path / "home")
    manifest = open_run(home / "run").manifest
    data = replace(manifest.data, path=f"{home}/questions.csv", images=f"{home}/images")
    write_manifest(home / "run", replace(manifest, data=data))
    return home


@pytest.fixture
def without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of texts and numbers: no image is read and made small."""
    monkeypatch.setattr("vlmscope.report.gallery.thumbnails", lambda *_: Thumbnails((), ""))


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of texts and numbers: no figure is drawn."""
    monkeypatch.setattr("vlmscope.report.build.plots", lambda *_: ())


@pytest.fixture
def labelled(home: Path) -> Path:
    """The same without probes: quicker, where figures do not matter."""
    shutil.rmtree(home / "run" / "probes")
    return home


no_images = pytest.mark.usefixtures("without_images")
texts_only = pytest.mark.usefixtures("without_images", "without_figures")


def gathered(home: Path, **asked: Any) -> Gathered:
    return gather(open_run(home / "run"), ReportSpec(**asked), lambda _: None)


def document_of(home: Path, **asked: Any) -> Document:
    return with_images(gathered(home, **asked))


def probes_of(home: Path) -> SavedSweep:
    saved = read_sweep(open_run(home / "run"))
    assert saved is not None
    return saved


def opened(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/webp", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_finished_run_lacks_nothing(home: Path) -> None:
    document, saved = document_of(home), probes_of(home)
    assert document.missing == ()
    assert document.images_note == document.token_view_note == ""
    assert document.headline == saved.summary["verdict"][0]
    assert [*document.sentences, *document.details] == saved.summary["verdict"][1:]
    assert len(document.sentences) == saved.summary["verdict_main"] - 1
    assert document.details
    assert [figure.name for figure in document.figures] == list(NAMES)
    assert all(figure.svg.startswith("<svg") and figure.csv for figure in document.figures)
    assert [row.name for row in document.results] == [row.name for row in saved.results]
    assert document.best_baseline in {row.name for row in document.results}
    tiles = {number.label: number.value for number in document.numbers}
    assert tiles["rows"] == str(ROWS)
    assert tiles["images"] == str(IMAGES)
    assert tiles["unscorable"] == "1"
    assert "failed" not in tiles, "alone in a row of its own, to say 0"
    assert document.numbers[0].note == "none failed"
    assert tiles["AUROC before the answer"] == f"{saved['selected'].auroc:.3f}"
    assert document.title == "tiny on questions.csv"
    assert document.labels is not None
    assert "--scorer column --column planted" in document.labels.made
    assert document.labels.decided_by == (("column", ROWS - 1),)
    assert document.labels.reasons == (("no label", 1),)
    headings = [heading for heading, _ in document.provenance]
    assert headings == ["Model", "Data", "Capture", "Environment", "Labels", "Probes"]
    assert dict(document.provenance[2][1])["positions"] == ", ".join(POSITIONS)


@texts_only
def test_categories_add_up_and_are_judged_apart(home: Path) -> None:
    saved = probes_of(home)
    *categories, total = document_of(home).categories
    shares = [row.share for row in categories]
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
    assert total.name == "all"
    for name in ("rows", "hallucinated", "faithful", "unscorable"):
        assert sum(getattr(row, name) for row in categories) == getattr(total, name)
    assert (total.auroc, total.auroc_low) == (
        saved["selected"].auroc,
        saved["selected"].auroc_low,
    )
    safe = next(row for row in categories if row.name == "safe")
    assert (safe.share, safe.share_low, safe.auroc, safe.auroc_low) == (0.0, 0.0, None, None)
    assert safe.share_high is not None
    assert safe.share_high > 0.1
    count = next(row for row in categories if row.name == "count")
    rows = saved.stacked("selected")
    assert len(rows.truth) == 2 * len(saved.truth), "every row is judged in each repeat"
    inside = np.tile(saved.predictions["id"].str.slice(1).astype(int) % 3 == 0, 2)
    risk = rows.risks["selected"][inside]
    expected = measure(rows.truth[inside], risk, rows.folds[inside]).auroc
    assert count.auroc == expected
    assert count.auroc_low is not None
    assert count.auroc_high is not None
    assert count.auroc_low < expected < count.auroc_high


@pytest.mark.exhaustive
@no_images
def test_one_quantity_has_one_number(home: Path, request: pytest.FixtureRequest) -> None:
    """Whatever is in results.json is taken from there, not resampled or rebinned in another way."""
    saved, document = probes_of(home), document_of(home)
    values = {each["value"]: each for each in saved.summary["by_column"]["category"]["values"]}
    *categories, _ = document.categories
    assert {row.name for row in categories} == set(values)
    for row in categories:
        each = values[row.name]
        told = (each["auroc"], each["interval"]["low"], each["interval"]["high"])
        assert (row.auroc, row.auroc_low, row.auroc_high) == told
        assert (row.share, row.share_low, row.share_high) == (
            each["share"], each["share_interval"]["low"], each["share_interval"]["high"],
        )  # fmt: skip
    assert saved.repeats == 2
    error = saved["selected"].ece
    figure = next(each for each in document.figures if each.name == "reliability")
    assert f"expected calibration error {error:.3f}" in figure.description
    counts = [int(line.split(",")[2]) for line in figure.csv.splitlines()[1:]]
    assert abs(sum(counts) - len(saved.truth)) <= len(counts), "an answer counts once"
    change(home, abstaining={"share": 0.1, "before": 0.5, "after": 0.25, "change": -0.25,
                             "interval": {"low": -0.3, "high": -0.2}})  # fmt: skip
    request.getfixturevalue("without_figures")
    tiles = {number.label: number for number in document_of(home).numbers}
    assert tiles["abstaining"].value == "50.0% → 25.0%"
    assert "-25.0 points (95% interval -30.0 to -20.0)" in tiles["abstaining"].note


def test_bars_of_the_reliability_curve_are_wider_where_images_repeat() -> None:
    rng = np.random.default_rng(0)
    risk = rng.random(150).repeat(10)
    truth = rng.random(150).repeat(10) < risk  # ten questions about an image, one outcome
    folds = np.zeros((1, len(risk)), dtype=np.int64)

    def widths(groups: np.ndarray) -> np.ndarray:
        rows = splitting.stacked(truth, groups, folds, {"selected": risk[None]})
        sweep: Any = SimpleNamespace(stacked=lambda _: rows, repeats=1)
        bars = figures._reliability(sweep).columns
        assert all(low <= rate <= high for low, rate, high in zip(
            bars["low"], bars["rate"], bars["high"], strict=True))  # fmt: skip
        return np.subtract(bars["high"], bars["low"])

    alone, repeated = widths(np.arange(len(risk))), widths(np.arange(len(risk)) // 10)
    assert np.all(repeated > 1.5 * alone)
    assert np.all(widths(np.zeros(len(risk), dtype=np.int64)) > 0.7), "one image tells little"


@texts_only
def test_categories_that_were_not_swept_are_judged_in_the_same_way(home: Path) -> None:
    before = document_of(home).categories
    columns = probes_of(home).summary["by_column"]
    change(home, by_column={"source": columns["source"]})
    for one, other in zip(before, document_of(home).categories, strict=True):
        assert (one.name, one.auroc, one.auroc_low) == (other.name, other.auroc, other.auroc_low)


@pytest.mark.exhaustive
@no_images
@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("group_by", "layers", "card"),
    [
        ("image", "about images it has not seen", "contain the same image"),
        ("question", "to questions it has not seen", "contain the same question"),
        ("category", "of values of category it has not seen", "contain the same value of category"),
    ],
)
def test_captions_say_what_the_folds_held_out(
    home: Path, group_by: str, layers: str, card: str
) -> None:
    change(home, group_by=group_by)
    document = document_of(home)
    assert layers in document.figures[0].caption
    assert card in " ".join(render(document).split())
    others = [figure.caption for figure in document.figures[1:]]
    assert not any("images resampled" in caption for caption in others)


def nothing_found(home: Path, *names: str) -> None:
    """Mark some results as constant risks, and give them numbers that would be noticed."""
    results = [dict(row) for row in probes_of(home).summary["results"]]
    for row in results:
        if row["name"] in names:
            row |= {"found_nothing": True, "constant": 1.0}
            if row["name"] != "selected":  # whose number the predictions are held against
                row |= {"auroc": 0.35432, "auroc_low": 0.30123, "auroc_high": 0.40321}
    change(home, results=results)


def row_of(page: str, title: str) -> str:
    """The text of a row of the table of results."""
    shown = html.escape(title).replace("&#x27;", "&#39;")  # as Jinja writes it
    row = page.split(f'<th scope="row" data-value="{shown}">')[1].split("</tr>")[0]
    return " ".join(re.sub(r"<[^>]*>", " ", row).split())


@pytest.mark.exhaustive
@no_images
@pytest.mark.first(1)
@pytest.mark.parametrize("which", ["joint", "best", "layer"])
def test_no_number_is_shown_of_a_result_that_found_nothing(home: Path, which: str) -> None:
    saved = probes_of(home)
    layer = next(row.name for row in saved.results if row.kind == "probe")
    best = saved.summary["best_baseline"]
    name = {"joint": "joint", "best": best, "layer": layer}[which]
    nothing_found(home, name)
    document = document_of(home)
    page = render(document)
    for exact in ("0.35432", "0.30123", "0.40321"):
        assert exact not in page, "nor in what a table is sorted by"
    title = probes_of(home)[name].title
    row = row_of(page, title)
    assert "constant risk" in row
    assert "0.354" not in row
    for drawn in document.figures:
        said = [drawn.description, *re.findall(r"<text[^>]*>([^<]*)", drawn.svg + drawn.narrow_svg)]
        assert not any("0.354" in text for text in said), drawn.name
    assert not any("0.354" in number.value + number.note for number in document.numbers)
    assert f"{title}</strong>, 0." not in page
    tiles = {number.label: number for number in document.numbers}
    figures = {figure.name: figure for figure in document.figures}
    tile = {"joint": "known without hidden states", "best": "best single baseline"}.get(which)
    if tile is not None:
        assert tiles[tile].value == "constant risk"
        for name in ("auroc_by_layer", "roc_curves", "risk_coverage"):
            assert "constant risk" in figures[name].svg, name
        assert "constant risk" in figures["auroc_by_layer"].narrow_svg
    if which == "joint":
        assert "adding the probe" not in tiles["known without hidden states"].note
    assert "constant risk" in figures["auroc_by_layer"].description
    gains = {"joint": "above_joint", "best": "above_baseline"}.get(which)
    for row in document.results:
        if row.name == layer or which != "layer":
            assert gains is None or getattr(row, gains) is None
        if which == "layer" and row.name == layer:
            assert (row.above_joint, row.above_baseline, row.above_joint_low) == (None, None, None)


@pytest.mark.exhaustive
@no_images
def test_no_number_is_shown_of_a_probe_that_found_nothing(
    home: Path, request: pytest.FixtureRequest
) -> None:
    saved = probes_of(home)
    auroc = f"{saved['selected'].auroc:.3f}"
    nothing_found(home, "selected")
    document = document_of(home)
    tiles = {number.label: number for number in document.numbers}
    assert tiles["AUROC before the answer"].value == "constant risk"
    assert "abstaining" not in tiles
    assert "adding the probe" not in tiles["known without hidden states"].note
    assert {row.auroc for row in document.categories} == {None}
    for column in document.columns:
        assert column.auroc is None
        assert {value.auroc for value in column.values} == {None}
        assert {value.all_low for value in column.values} == {None}
        assert {value.auroc_low for value in column.values} == {None}
    figures = {figure.name: figure for figure in document.figures}
    for name in ("roc_curves", "risk_coverage"):
        assert "best layer, chosen inside training (probe): constant risk" in (
            figures[name].description
        )
    row = row_of(render(document), saved["selected"].title)
    assert auroc not in row
    assert "constant risk" in row
    change(home, by_column={})
    request.getfixturevalue("without_figures")
    assert {row.auroc for row in document_of(home).categories} == {None}


@texts_only
def test_differences_in_the_table_are_those_of_the_numbers_in_it(home: Path) -> None:
    results = [dict(row) for row in probes_of(home).summary["results"]]
    for row in results:
        if row["name"] == "joint":
            row["auroc"] = 0.93449
        if row["kind"] == "combined":
            row |= {"auroc": 0.88251, "above_joint": 0.88251 - 0.93449}
    change(home, results=results)
    document = document_of(home)
    rows = [row for row in document.results if row.kind == "combined"]
    assert rows
    assert {row.above_joint for row in rows} == {-0.051}, "0.883 - 0.934; unrounded -0.052"
    tile = next(n for n in document.numbers if n.label == "known without hidden states")
    assert tile.value == "0.934"
    assert "adding the probe -0.051" in tile.note


def change(home: Path, **changes: Any) -> None:
    """Change what the sweep's summary says."""
    path = home / "run" / "probes" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def carried(home: Path, **changes: Any) -> Path:
    """Leave what ``probe --test`` leaves."""
    folder = home / "run" / "probes"
    row = {"name": "selected", "kind": "selected", "found_nothing": False, "auroc": 0.742,
           "auroc_low": 0.715, "auroc_high": 0.767, "own_auroc": 0.895}  # fmt: skip
    joint = row | {"name": "joint", "kind": "baseline", "auroc": 0.877}
    test = {"run": "/x/other", "relation": "other questions on the same model", "rows": 1234,
            "results": [row, joint]}  # fmt: skip
    digest = hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()
    document = {"kind": "vlmscope transfer", "schema_version": 1, "results_sha256": digest,
                "tests": [test]}  # fmt: skip
    (folder / "transfer.json").write_text(json.dumps(document | changes))
    return folder / "transfer.json"


@texts_only
def test_a_transfer_is_told(home: Path) -> None:
    carried(home)
    document = document_of(home)
    assert document.sentences[-1] == (
        "Transfer to other, other questions on the same model, 1,234 answers: the probe's AUROC is "
        "0.742 (95% interval 0.715 to 0.767), 0.895 trained there; the joint baseline, "
        "transferred in the same way, reaches 0.877."
    )
    assert document.missing == ()


@texts_only
def test_a_transfer_of_another_label_set_says_which_labels_are_compared(home: Path) -> None:
    carried(home)
    shutil.copytree(home / "run" / "probes", home / "run" / "probes-human")
    [sentence] = transfers(open_run(home / "run"), "human").sentences
    start = "Transfer to other (its default labels; the probe learned 'human'), other questions"
    assert sentence.startswith(start)


@pytest.mark.first(1)
@texts_only
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"results_sha256": "0" * 64}, "the probes were retrained since"),
        ({"kind": "mine"}, "it is not a transfer of vlmscope probe"),
        ({"schema_version": 2}, "it is from another version"),
        ({"tests": [{"run": "x"}]}, "it is damaged (it lacks 'relation')"),
        ({"tests": 7}, "it is damaged"),
        ({"tests": [7]}, "it is damaged"),
        (None, "The saved transfer is left out"),
    ],
)
def test_a_transfer_that_fits_no_longer_is_left_out(
    home: Path, changes: dict[str, Any] | None, said: str
) -> None:
    if changes is None:
        carried(home).write_text("[" * 9999)
    else:
        carried(home, **changes)
    document = document_of(home)
    assert not any("Transfer to" in sentence for sentence in document.sentences)
    assert [said in each for each in document.missing] == [True]


@pytest.mark.first(3)
@texts_only
@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("auroc", 1.7, "auroc of 'selected' is 1.7, expected a number from 0 to 1"),
        ("own_auroc", float("nan"), "own_auroc of 'selected' is nan, expected a number from 0"),
        ("rows", True, "rows is True, expected a number of rows"),
        ("auroc_low", -0.1, "auroc_low of 'selected' is -0.1"),
        ("auroc_high", "0.9", "auroc_high of 'selected' is '0.9'"),
        ("auroc_high", float("inf"), "auroc_high of 'selected' is inf"),
        ("auroc", None, "auroc of 'selected' is missing"),
        ("auroc", False, "auroc of 'selected' is False"),
        ("found_nothing", 0, "found_nothing of 'selected' is 0"),
        ("rows", -3, "rows is -3"),
        ("rows", "12", "rows is '12'"),
        ("relation", ["x"], "relation is ['x'], expected a text"),
        ("run", 7, "run is 7, expected a text"),
    ],
)
def test_a_transfer_with_impossible_numbers_is_left_out(
    home: Path, where: str, value: object, said: str
) -> None:
    path = carried(home)
    found = json.loads(path.read_text())
    test = found["tests"][0]
    (test if where in test else test["results"][0])[where] = value
    path.write_text(json.dumps(found))
    document = document_of(home)
    assert not any("Transfer to" in sentence for sentence in document.sentences)
    [left_out] = [each for each in document.missing if "The saved transfer is left out" in each]
    assert f"it is damaged ({said}" in left_out
    assert "\n" not in left_out
    assert "`vlmscope probe` with `--test` again" in left_out


@texts_only
def test_other_columns_are_those_of_the_sweep(home: Path) -> None:
    (table,) = document_of(home).columns
    saved = probes_of(home).summary["by_column"]["source"]
    assert table.name == "source"
    assert table.auroc == saved["within"]["selected"]["auroc"]
    assert table.joint_low == saved["within"]["joint"]["interval"]["low"]
    assert [value.name for value in table.values] == [each["value"] for each in saved["values"]]
    assert sum(value.rows for value in table.values) == ROWS - 1
    assert table.values[0].all_low == saved["values"][0]["simultaneous"]["low"]


@pytest.mark.usefixtures("without_figures")
def test_a_card_holds_what_the_run_holds(home: Path) -> None:
    run, saved, labels = open_run(home / "run"), probes_of(home), read_labels(home / "run")
    document = document_of(home)
    assert [card.id for card in document.cards] == list(run.ids)
    risks = dict(zip(saved.predictions["id"], saved.risk("selected"), strict=True))
    for card in document.cards[::5]:
        row = run[card.id]
        assert (card.question, card.truth) == (row.sample.question, row.sample.target)
        assert (card.answer, card.finish_reason) == (row.answer, row.finish_reason)
        assert (card.positions, card.num_prompt_tokens) == (row.boundaries, row.num_prompt_tokens)
        assert card.risk == risks.get(card.id)
        assert (card.outcome, card.evidence) == (labels[card.id].outcome, labels[card.id].evidence)
        assert row.answer_logprobs is not None
        assert [logprob for _, logprob, _ in card.answer_tokens] == row.answer_logprobs.tolist()
        assert [entropy for *_, entropy in card.answer_tokens] == row.signals["entropy"].tolist()
        chances = [chance for _, chance in card.first_tokens]
        assert len(chances) == 5
        assert chances == sorted(chances, reverse=True)
        assert chances[0] == pytest.approx(math.exp(row.first_token_logprobs[0]))
        assert card.images == (row.image_sha256,)
        assert card.num_images == 1
        lens = run.lens(card.id)
        assert list(card.lens) == list(lens["position"].unique())
        shown = [prob for layers in card.lens.values() for layer in layers for _, prob in layer]
        assert shown == lens[lens["rank"] < 5]["probability"].tolist()
    assert document.lens.layers == (0, 4, 7)
    [unscorable] = [card for card in document.cards if card.id == UNSCORABLE]
    assert unscorable.risk is None, "no probe judged what could not be scored"


@texts_only
def test_tokens_are_those_that_the_model_read_and_wrote(labelled: Path, vlm: Any) -> None:
    run = open_run(labelled / "run")
    document = document_of(labelled, id="q17")
    view, row = document.token_view, run["q17"]
    assert view is not None
    assert (view.id, view.question) == ("q17", row.sample.question)
    ids = [token.id for token in view.tokens for _ in range(token.count)]
    assert len(ids) == row.num_prompt_tokens
    assert row.sample.question in vlm.processor.tokenizer.decode(ids)
    assert [token.position for token in view.tokens] == list(
        np.cumsum([0, *(token.count for token in view.tokens)])[:-1]
    )
    marked = {mark: token for token in view.tokens for mark in token.marks}
    names = {"vision_token": "last_image_token", "query_token": "last_prompt_token"}
    for name, position in (names | {"last_question_token": "last_question_token"}).items():
        token = marked[f"{name}_boundary"]
        assert (token.position, token.count) == (row.boundaries[position], 1)
    assert marked["vision_token_boundary"].text == "<|image|>"
    card = next(card for card in document.cards if card.id == "q17")
    assert row.answer_token_ids is not None
    assert [text for text, *_ in card.answer_tokens] == [
        vlm.processor.tokenizer.decode([token]) for token in row.answer_token_ids.tolist()
    ]
    lens = run.lens("q17", vlm.processor.tokenizer)
    last = lens[(lens["position"] == "last_prompt_token") & (lens["layer"] == 7)]
    assert [text for text, _ in card.lens["last_prompt_token"][2]] == list(last["token"][:5])


@texts_only
def test_the_logit_lens_of_many_cards_is_left_out_and_it_is_said(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmscope.report.gallery.MOST_LENS_TOKENS", 3 * 3 * 5 * 2)
    document = document_of(labelled)
    assert [bool(card.lens) for card in document.cards] == [True, True] + [False] * (ROWS - 2)
    assert "Only the first 2 cards have the logit lens" in document.lens.note
    assert document.lens.note in render(document)


@texts_only
def test_by_default_the_riskiest_hallucination_is_taken_apart(home: Path) -> None:
    document = document_of(home)
    assert document.token_view is not None
    wrong = [card for card in document.cards if card.outcome == "hallucinated"]
    assert document.token_view.id == max(wrong, key=lambda card: card.risk or 0).id


@pytest.mark.usefixtures("without_figures")
def test_images_are_the_tables_own_made_small(labelled: Path) -> None:
    document = document_of(labelled)
    assert len(document.images) == IMAGES
    for i in range(IMAGES):
        original = Image.open(labelled / "images" / f"{i}.png")
        small = opened(document.images[hash_image(original)])
        assert small.size == (SIDES[0], 205)
        same = np.asarray(original.resize(small.size), float) - np.asarray(small.convert("RGB"))
        assert abs(same).mean() < 20, "the image itself, if coarser"
    assert document.images == document_of(labelled).images, "the same at every time"


@pytest.mark.exhaustive
@pytest.mark.usefixtures("without_figures")
def test_images_shrink_until_the_page_is_small_enough(labelled: Path) -> None:
    found = gathered(labelled)
    sizes = [sum(map(len, size.values())) for size in found.thumbnails.sizes]
    assert sizes == sorted(sizes, reverse=True)
    whole = with_images(found)
    rest = write_size(replace(whole, images=dict.fromkeys(whole.images, "")))
    for number, side in enumerate(SIDES[1:], start=1):
        limit = rest + math.ceil((sizes[number - 1] + sizes[number]) / 2 * 4 / 3) + 500
        document = with_images(found, limit=limit)
        assert {max(opened(uri).size) for uri in document.images.values()} == {side}
        assert write_size(document) <= limit
    document = with_images(found, limit=rest + 100)
    assert document.images == {}
    assert document.images_note == (
        f"No images: {IMAGES} do not fit into the page; give fewer --samples."
    )
    assert {card.images for card in document.cards} == {()}


def write_size(document: Document) -> int:
    from vlmscope.report.render import render

    return len(render(document).encode())


@pytest.mark.usefixtures("without_figures")
def test_images_that_are_gone_or_changed_are_left_out(labelled: Path) -> None:
    (labelled / "images" / "0.png").unlink()
    make_image("four").save(labelled / "images" / "3.png")
    (labelled / "images" / "5.png").write_bytes(b"no image")
    rows = (labelled / "questions.csv").read_text("utf-8").splitlines(keepends=True)
    (labelled / "questions.csv").write_text("".join(rows[:-3]), "utf-8")
    document = document_of(labelled)
    assert len(document.images) == IMAGES - 4
    note = document.images_note
    assert note.startswith(f"4 of {IMAGES} images are missing: 2 could not be opened (image ")
    assert "1 changed since the run was made (3.png)" in note
    assert "1 not in the table" in note
    shown = {card.id for card in document.cards if card.images}
    assert {"q0", "q9", "q15", "q59"}.isdisjoint(shown)
    assert len(shown) == ROWS - 4 * 3
    view = gathered(labelled, id="q9").document
    assert view.token_view is None
    said = "The prompt of q9 is not shown: image 3.png has changed since the run was made."
    assert view.token_view_note == said


@pytest.mark.usefixtures("without_figures")
def test_what_has_moved_is_found_where_one_says(labelled: Path, checkpoint: Path) -> None:
    moved = labelled.rename(labelled.with_name("moved"))
    poor = document_of(moved)
    assert poor.images == {}
    assert "if it has moved, give data and images" in poor.images_note
    assert poor.token_view is None
    assert "is not available" in poor.token_view_note
    assert len(poor.cards) == ROWS
    found = document_of(moved, data=f"{moved}/questions.csv", images=f"{moved}/images")
    assert len(found.images) == IMAGES
    assert found.token_view is not None


@texts_only
def test_without_the_model_tokens_are_numbers(labelled: Path, talkative: Path) -> None:
    manifest = open_run(labelled / "run").manifest
    gone = replace(manifest.model, name=f"{labelled}/gone")
    write_manifest(labelled / "run", replace(manifest, model=gone))
    document = document_of(labelled)
    run = open_run(labelled / "run")
    first = run[run.ids[0]].answer_token_ids
    assert first is not None
    assert document.cards[0].answer_tokens[0][0] == f"#{first[0]}"
    token = run.lens(run.ids[0])["token_id"][0]
    assert document.cards[0].lens["last_image_token"][0][0][0] == f"#{token}"
    assert document.token_view is None
    assert f"{labelled}/gone: no such folder; give the model" in document.token_view_note
    assert document_of(labelled, model=str(talkative)).token_view is not None, "the same processor"


@texts_only
@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("processor_hash", "the processor is not the one of the run"),
        ("chat_template_hash", "the chat template is not the one of the run"),
    ],
)
def test_another_processor_is_not_believed(labelled: Path, part: str, said: str) -> None:
    manifest = open_run(labelled / "run").manifest
    model = replace(manifest.model, **{part: "0" * 64})
    write_manifest(labelled / "run", replace(manifest, model=model))
    document = gathered(labelled).document
    assert document.token_view is None
    assert said in document.token_view_note


@texts_only
def test_a_checkpoint_without_processor_is_no_reason_to_fail(
    labelled: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    document = gathered(labelled, model=str(tmp_path / "empty")).document
    assert document.token_view is None
    assert "no processor can be loaded" in document.token_view_note


@no_images
def test_stale_probes_are_left_out_and_it_is_said(home: Path) -> None:
    scores = list(read_labels(home / "run").values())
    scores[0] = replace(scores[0], hallucinated=not scores[0].hallucinated)
    write_labels(home / "run", scores, {})
    document = document_of(home)
    assert document.headline is None
    assert document.results == ()
    assert {card.risk for card in document.cards} == {None}
    assert [figure.name for figure in document.figures] == ["category_rates"]
    [said] = document.missing
    assert said.startswith(
        f"The saved probes are left out, 1 of {ROWS} rows have another label now: "
    )
    assert f"`vlmscope probe {home}/run`" in said


def test_damaged_probes_are_refused(home: Path) -> None:
    (home / "run" / "probes" / "predictions.parquet").unlink()
    with pytest.raises(StoreError, match="run 'vlmscope probe"):
        gathered(home)


@no_images
def test_a_run_before_labels_and_probes(labelled: Path) -> None:
    document = document_of(labelled)
    assert ["No probes yet" in said for said in document.missing] == [True]
    assert document.categories[-1].auroc is None
    (labelled / "run" / "labels.parquet").unlink()
    document = document_of(labelled)
    assert [said.split(":")[0] for said in document.missing] == ["No labels yet"]
    assert document.categories == document.figures == document.results == ()
    assert document.labels is None
    assert {card.outcome for card in document.cards} == {None}
    assert [number.label for number in document.numbers] == ["rows", "images"]
    assert document.token_view is not None
    assert document.token_view.id == open_run(labelled / "run").ids[0]


@no_images
def test_labels_of_one_kind_and_rows_without(labelled: Path) -> None:
    ids = open_run(labelled / "run").ids
    write_labels(labelled / "run", [Score(id_, False, "column", "") for id_ in ids[1:]], {})
    said = document_of(labelled).missing
    assert said[0].startswith(f"1 of {ROWS} rows have no label: ")
    assert said[1].startswith("No probes: of 35 scorable answers 0 are hallucinated")


@pytest.mark.exhaustive
@texts_only
def test_a_draw_keeps_the_order_and_the_row_asked_for(labelled: Path) -> None:
    ids = list(open_run(labelled / "run").ids)
    one = [card.id for card in gathered(labelled, samples=10, id="q31").document.cards]
    assert len(one) == 10
    assert "q31" in one
    assert one == sorted(one, key=ids.index)
    assert one == [card.id for card in gathered(labelled, samples=10, id="q31").document.cards]
    other = gathered(labelled, samples=10, seed=1).document
    assert one != [card.id for card in other.cards]
    assert (len(other.cards), other.rows) == (10, ROWS)
    with pytest.raises(InputError, match="no question 'q410'"):
        gathered(labelled, id="q410")
    with pytest.raises(InputError, match=r"^samples 0"):
        ReportSpec(samples=0)


def test_a_run_that_stopped_at_the_prefill_without_categories(tmp_path: Path) -> None:
    rows = [
        replace(row, sample=replace(row.sample, metadata={}))
        for row in make_captures(range(6), answered=False)
    ]
    with RunWriter(tmp_path / "run", make_manifest(capture={"max_new_tokens": 0})) as writer:
        writer.add(rows)
    FailureLog(tmp_path / "run").add(Failure("q_bad", "image", "t.csv line 9: is no image"))
    write_labels(tmp_path / "run", [Score(r.sample.id, True, "column", "") for r in rows], {})
    document = document_of(tmp_path)
    assert {(card.answer, card.category, card.answer_tokens) for card in document.cards} == {
        (None, None, ())
    }
    assert [row.name for row in document.categories] == ["all"]
    assert document.figures == ()
    assert document.missing[0].startswith("The run stopped after the prefill")
    assert document.missing[1].startswith("1 row failed: ")
    assert [(row.id, row.attempt) for row in document.failures] == [("q_bad", 1)]
    assert document.numbers[0].note == "1 row failed and not counted"


def test_a_run_without_rows(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_manifest()):
        pass
    FailureLog(tmp_path / "run").add(Failure("q", "image", "is no image"))
    document = document_of(tmp_path)
    assert (document.rows, document.cards, document.token_view) == (0, (), None)
    assert len(document.failures) == 1


def test_a_report_is_one_page_and_figures_beside_it(home: Path) -> None:
    run = open_run(home / "run")
    doing: list[str] = []
    written = write_report(run, progress=doing.append)
    assert written.page == home / "run" / "report.html"
    assert written.size == written.page.stat().st_size
    text = written.page.read_text("utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    for image_ in written.document.images.values():
        assert image_ in text
    files = {path.name for path in (home / "run" / "plots").glob("[!.]*")}
    assert files == {path.name for path in written.plots}
    assert files == {f"{name}{suffix}" for name in NAMES for suffix in (".svg", ".png", ".csv")}
    assert doing[0] == "rows"
    assert doing[-1] == "page"
    (home / "run" / "plots" / "mine.csv").write_text("kept")
    shutil.rmtree(home / "run" / "probes")
    write_report(run)
    left = {path.stem for path in (home / "run" / "plots").glob("[!.]*")}
    assert left == {"category_rates", "mine"}, "older figures may be wrong by now"


@pytest.mark.exhaustive
@no_images
def test_a_page_elsewhere(labelled: Path, tmp_path: Path) -> None:
    run = open_run(labelled / "run")
    written = write_report(run, out=tmp_path / "first.html")
    assert {path.parent for path in written.plots} == {tmp_path / "first-plots"}
    assert not (labelled / "run" / "report.html").exists()
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        write_report(run, out=tmp_path)
    with pytest.raises(InputError, match="does not exist; make it first"):
        write_report(run, out=tmp_path / "no" / "page.html")
