"""Runs on disk: crash-safe to write, plain HDF5 to read. Format: docs/format.md.

- ``storage/``: paths, object stores, atomic files, removal, locks
- ``format/``: names, ``run.json``, shards, and the checks before a row is read
- ``writer``: parts → packs → ``index.h5``; ``claim``: its folders and ``run.json``
- ``writer_process``: the same in a separate process; ``builders``: processes that build shards
  for it; ``child_process``: how both are started, and end
- ``in_progress``: which rows are being processed, for the session after a killed one
- ``failures``: ``failures.jsonl``
- ``catalog``: the current shards of a run; ``index``: all of them in one file
- ``run``: reading a run, ``iloc``: its rows by number; ``table``: its rows as tables of scalars
- ``labels``: label sets; ``ground_truths``: ground truths that changed after the capture
- ``damage``: finds files that differ from what was published, and moves them away
- ``describe``, ``export``: a summary of a run, and the run as one file
- ``halp_files``, ``halp_rows``: files in the HALP layout, read as one table
"""

from vlmscope.store.catalog import check_columns_of_run, ids_written_by
from vlmscope.store.damage import Damage, find_damage, set_aside
from vlmscope.store.describe import Description, RepresentationInfo, describe
from vlmscope.store.export import export_run
from vlmscope.store.failures import (
    FailureLog,
    failures_shown,
    frequent_reasons,
    last_failures,
    read_failures,
)
from vlmscope.store.format.batch import clean_text
from vlmscope.store.format.manifest import (
    STATE_HASHES,
    CaptureRecord,
    DataRecord,
    Manifest,
    ModelRecord,
    StoreDtype,
    check_same,
    model_differences,
    read_manifest,
    write_manifest,
)
from vlmscope.store.format.naming import (
    boundary_name,
    is_of_image,
    link_name,
    question_id,
    representation_name,
    shown_layers,
    vector_path,
)
from vlmscope.store.format.size import bytes_per_row
from vlmscope.store.ground_truths import (
    hash_ground_truths,
    read_ground_truths,
    replace_ground_truths,
)
from vlmscope.store.halp_files import (
    FAILED_ANSWER,
    HalpFiles,
    find_halp_files,
    open_halp_files,
)
from vlmscope.store.in_progress import InProgress
from vlmscope.store.index import rebuild_index
from vlmscope.store.labels import (
    DEFAULT,
    are_stale,
    label_sets,
    label_settings,
    labels_file,
    made_from_ground_truths,
    read_labels,
    write_labels,
)
from vlmscope.store.run import AnyRun, Run, as_run, open_run
from vlmscope.store.storage.atomic import publish, publish_together
from vlmscope.store.storage.locks import (
    ALONE,
    alone,
    check_free,
    rank_name,
    team_name,
    wait_for_end,
)
from vlmscope.store.storage.object_store import read_document, reading
from vlmscope.store.storage.paths import (
    FOLDERS,
    as_path,
    check_output_file,
    check_outside_runs,
    check_reachable,
    is_remote,
    make_folder,
    path_of,
)
from vlmscope.store.storage.removal import (
    is_child_name,
    make_child_folder,
    remove_file,
    remove_folder,
)
from vlmscope.store.table import lens_of, parquet_bytes, write_table
from vlmscope.store.writer import RunWriter
from vlmscope.store.writer_process import RunWriterProcess

__all__ = [
    "ALONE",
    "DEFAULT",
    "FAILED_ANSWER",
    "FOLDERS",
    "STATE_HASHES",
    "AnyRun",
    "CaptureRecord",
    "Damage",
    "DataRecord",
    "Description",
    "FailureLog",
    "HalpFiles",
    "InProgress",
    "Manifest",
    "ModelRecord",
    "RepresentationInfo",
    "Run",
    "RunWriter",
    "RunWriterProcess",
    "StoreDtype",
    "alone",
    "are_stale",
    "as_path",
    "as_run",
    "boundary_name",
    "bytes_per_row",
    "check_columns_of_run",
    "check_free",
    "check_output_file",
    "check_outside_runs",
    "check_reachable",
    "check_same",
    "clean_text",
    "describe",
    "export_run",
    "failures_shown",
    "find_damage",
    "find_halp_files",
    "frequent_reasons",
    "hash_ground_truths",
    "ids_written_by",
    "is_child_name",
    "is_of_image",
    "is_remote",
    "label_sets",
    "label_settings",
    "labels_file",
    "last_failures",
    "lens_of",
    "link_name",
    "made_from_ground_truths",
    "make_child_folder",
    "make_folder",
    "model_differences",
    "open_halp_files",
    "open_run",
    "parquet_bytes",
    "path_of",
    "publish",
    "publish_together",
    "question_id",
    "rank_name",
    "read_document",
    "read_failures",
    "read_ground_truths",
    "read_labels",
    "read_manifest",
    "reading",
    "rebuild_index",
    "remove_file",
    "remove_folder",
    "replace_ground_truths",
    "representation_name",
    "set_aside",
    "shown_layers",
    "team_name",
    "vector_path",
    "wait_for_end",
    "write_labels",
    "write_manifest",
    "write_table",
]
