"""Any ids and texts: CSV, JSONL and Parquet give equal samples and equal fingerprints."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vlmscope.dataset import open_table, read_samples

from .tables import write_csv, write_jsonl, write_parquet

storable = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(storable)
says_something = texts.filter(lambda text: bool(text.strip()))
awkward = st.sampled_from(["007", "a/b", ".", "..", "1e3", "a,b", '"', "\r", "x\n", "=1+1", "null"])
rows = st.lists(
    st.fixed_dictionaries(
        {
            "question_id": says_something | awkward.filter(lambda text: bool(text.strip())),
            "image": st.just("a.png"),
            "question": says_something,
            "answer": (texts | awkward).filter(lambda text: text not in ("nan", "NaN")),
            "topic": texts,
        }
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row["question_id"],
)


@given(rows)
@settings(deadline=None, max_examples=15)
def test_formats_agree(table: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            write_csv(Path(folder, "t.csv"), table),
            write_csv(Path(folder, "t.tsv"), table, delimiter="\t"),
            write_jsonl(Path(folder, "t.jsonl"), table),
            write_parquet(Path(folder, "t.parquet"), table),
        ]
        read = [[replace(sample, origin="") for sample in read_samples(path)] for path in paths]
        scans = [open_table(path).scan() for path in paths]
    expected = [
        (row["question_id"], row["question"], row["answer"], {"topic": row["topic"]})
        for row in table
    ]
    assert [(s.id, s.question, s.target, s.metadata) for s in read[0]] == expected
    assert all(samples == read[0] for samples in read)
    assert all(scan == scans[0] for scan in scans)
    assert scans[0].ids == tuple(row["question_id"] for row in table)
