"""Labelling: scoring the answers of a run or an external table, and writing the labels.

- ``writing``: label sets of a run; labels made by a person are never replaced without ``overwrite``
- ``local_judge``: a chat model on this machine as the judge
- ``external``: answers from other tools, in tables and files in the HALP layout
"""

from vlmscope.labelling.external import (
    H5,
    is_answers,
    read_answer_files,
    score_rows,
    with_truth,
    write_labelled,
)
from vlmscope.labelling.local_judge import LocalJudgeSettings, local_judge, local_settings
from vlmscope.labelling.writing import (
    MADE,
    READ,
    check_answers,
    check_kept,
    check_rows,
    label,
    replace_labels,
)

__all__ = [
    "H5",
    "MADE",
    "READ",
    "LocalJudgeSettings",
    "check_answers",
    "check_kept",
    "check_rows",
    "is_answers",
    "label",
    "local_judge",
    "local_settings",
    "read_answer_files",
    "replace_labels",
    "score_rows",
    "with_truth",
    "write_labelled",
]
