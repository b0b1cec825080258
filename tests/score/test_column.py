"""Labels that are there already: every spelling in use, and files that are not what they seem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmscope.errors import InputError
from vlmscope.schema import Answered
from vlmscope.score import Column, LabelFile, read_label_file


def row(id_: str, **metadata: Any) -> Answered:
    return Answered(id_, "?", None, "", metadata)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *((true, True) for true in (True, 1, 1.0, "True", "1", "YES", " hallucinated ")),
        *((false, False) for false in (False, 0, 0.0, "False", "0", "no", "Faithful")),
        *((empty, None) for empty in (None, "", "nan", float("nan"), "maybe", 2)),
    ],
)
def test_a_column_of_labels(value: object, label: bool | None) -> None:
    scores = list(Column("judged")([row("a", judged=value), row("b", judged="no")]))
    assert [(score.id, score.hallucinated) for score in scores] == [("a", label), ("b", False)]
    assert all(score.scorer == "column" and score.evidence for score in scores)


def test_a_column_that_holds_no_labels_is_refused() -> None:
    with pytest.raises(InputError, match=r"^column nothing: no such column; there are: category"):
        list(Column("nothing")([row("a", category="x")]))
    with pytest.raises(InputError, match="no row contains a label"):
        list(Column("category")([row("a", category="x")]))
    assert list(Column("nothing")([])) == []


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, "utf-8")
    return path


def test_a_file_of_the_research(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "\ufeffquestion_id,model_answer,is_hallucinating,is_hallucinating_manual\n"
        'a,"Yes, a\nlong one",True,False\nb,No,True,True\n\nc,No,True,\n',
    )
    assert read_label_file(path) == {"a": False, "b": True, "c": None}
    assert read_label_file(path, label_column="is_hallucinating")["c"] is True
    scorer = LabelFile(path)
    scores = list(scorer([row("b"), row("a"), row("c"), row("d")]))
    assert [score.hallucinated for score in scores] == [True, False, None, None]
    assert scores[3].evidence == "not in the label file: labels.csv"
    assert {score.scorer for score in scores} == {"file"}
    assert scorer.unknown(["a"]) == ["b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column question_id or id in the header, found none"),
        ("id,verdict\na,1\n", "no column is_hallucinating_manual or .* found id, verdict"),
        (
            "id,label\na,maybe\n",
            'line 2: column label: "maybe" is not a label; expected true, false',
        ),
        ("id,label\na,1\na,0\n", "line 3: 'a' has another label in an earlier line"),
        ("id,label\na,1,2\n", "line 2: 3 cells, expected 2"),
        ('id,label\na,"1\n', "not a CSV file"),
        ("id,label\n", "has no rows below its header"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_label_file(write(tmp_path, text))
    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "cells", "values"),
    [
        ("is_correct,hallucinated", "1,1", "hallucinated is '1', but is_correct is '1'"),
        ("is_correct,hallucinated", "0,no", "hallucinated is 'no', but is_correct is '0'"),
        ("label,Is_Correct", "1,true", "label is '1', but Is_Correct is 'true'"),
        ("faithful,is_correct", "1,0", "faithful is '1', but is_correct is '0'"),
        ("is_hallucinating,faithful", "True,right", "is 'True', but faithful is 'right'"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(
    tmp_path: Path, header: str, cells: str, values: str
) -> None:
    path = write(tmp_path, f"id,{header}\nfirst,,\nsecond,{cells}\n")
    with pytest.raises(InputError) as caught:
        LabelFile(path)
    said = str(caught.value)
    assert said.startswith(f"{path} line 3: question 'second': ")
    assert values in said
    assert "correct the row, or remove the column" in said
    read_label_file(path, label_column=header.split(",")[1])  # named: there is no doubt which


@pytest.mark.parametrize(
    ("header", "cells", "label"),
    [
        ("is_correct,hallucinated", "0,1", True),
        ("is_correct,hallucinated", "1,0", False),
        ("is_correct,hallucinated", ",1", True),
        ("is_correct,hallucinated", "unscorable,1", True),
        ("correct,hallucinated", "yes,true", True),  # the correct answer to the question
        ("label,hallucinated", "no,true", True),  # as in POPE, where it is the ground truth
        ("faithful,hallucinated", "a cat,true", True),
        ("is_correct,is_hallucinating_manual", "1,1", True),  # corrected by hand
    ],
)
def test_columns_that_agree_or_say_something_else_are_read(
    tmp_path: Path, header: str, cells: str, label: bool
) -> None:
    path = write(tmp_path, f"id,{header}\nq,{cells}\n")
    assert read_label_file(path) == {"q": label}


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv: No such file"):
        read_label_file(tmp_path / "nowhere.csv")
    (tmp_path / "bytes.csv").write_bytes(b"id,label\n\xff,1\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_label_file(tmp_path / "bytes.csv")


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats())))
def test_every_row_gets_one_score_in_order(values: list[Any]) -> None:
    given_rows = [row("first", x="no"), *(row(str(i), x=value) for i, value in enumerate(values))]
    scores = list(Column("x")(given_rows))
    assert [score.id for score in scores] == [row.id for row in given_rows]
    assert all(score.evidence for score in scores)


@pytest.mark.parametrize(
    ("column", "hallucinated", "faithful"),
    [
        ("label", ("TRUE", "1.0", "1.00", "T", "y", 1), ("FALSE", "0.00", "f", "N", 0)),
        ("is_correct", ("0", "false", "No", 0.0), ("1", "true", "yes", 1)),
        ("isFaithful", ("False", 0), ("True", True)),
        ("answer_right", ("n",), ("y",)),
        ("incorrect", ("1", True), ("0", False)),
        ("not_correct", ("yes",), ("no",)),
        ("hallucinated_or_faithful", ("1",), ("0",)),
        ("is_correct", ("hallucinated", "Wrong"), ("faithful", "RIGHT")),
        ("verdict", ("incorrect", "hallucination"), ("correct", "right")),
    ],
)
def test_what_true_means_is_read_from_the_name(
    column: str, hallucinated: tuple[object, ...], faithful: tuple[object, ...], tmp_path: Path
) -> None:
    cells = [*hallucinated, *faithful]
    wanted = [True] * len(hallucinated) + [False] * len(faithful)
    given_rows = [row(str(i), **{column: cell}) for i, cell in enumerate(cells)]
    assert [score.hallucinated for score in Column(column)(given_rows)] == wanted
    lines = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    path = write(tmp_path, f"id,{column}\n{lines}")
    found = read_label_file(path, label_column=column)
    assert list(found.values()) == wanted
    scorer = LabelFile(path, label_column=column)
    assert [score.hallucinated for score in scorer(given_rows)] == wanted
    assert f"{hallucinated[0]} → hallucinated" in str(scorer.reading)


def test_a_file_may_say_which_answers_are_correct(tmp_path: Path) -> None:
    assert read_label_file(write(tmp_path, "id,is_correct\na,1\nb,0\n")) == {"a": False, "b": True}
    both = write(tmp_path, "id,is_correct,hallucinated\na,1,\nb,0,1\n")
    assert read_label_file(both) == {"a": None, "b": True}


def test_the_truth_is_no_label(tmp_path: Path) -> None:
    """The column ``label`` of POPE's tables: yes and no, what is asked and not who was right."""

    def table(says: str, answers: str, truths: str) -> list[Answered]:
        words = {"y": "yes", "n": "no"}
        return [
            Answered(
                str(i), "Is it?", words[a].title() + ".", words[t].title(), {"label": words[s]}
            )
            for i, (s, a, t) in enumerate(zip(says, answers, truths, strict=True))
        ]

    pope = table("ynynyn", "yyynnn", "ynynyn")
    path = write(tmp_path, "id,label\n" + "".join(f"{r.id},{r.metadata['label']}\n" for r in pope))
    for scorer in (Column("label"), LabelFile(path)):
        with pytest.raises(InputError, match="are the truth in all 6 rows, not labels"):
            list(scorer(pope))
    # Labels of a model that always says no are yes exactly where the truth is.
    always_no = table("ynynyn", "nnnnnn", "ynynyn")
    assert [s.hallucinated for s in Column("label")(always_no)] == [True, False] * 3
    # One row that differs, or too few, and they are labels.
    assert list(Column("label")(table("ynynyy", "yyynnn", "ynynyn")))
    assert list(Column("label")(pope[:4]))
