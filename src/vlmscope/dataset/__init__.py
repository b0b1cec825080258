"""Reading of tables of questions about images, in any format, as a stream of ``Sample``.

- ``table``: ``Table``, scan and rows; ``share``: the rows of one rank; ``unchanged``: rows compared
  with the scan
- ``tables/``: readers of CSV, JSON, Parquet, hub datasets and tables in memory; ``source``: their
  common interface
- ``rows/``: from a row to a sample; ``column_names``: known names of columns; ``mapping``: columns
  that a caller assigns
- ``values``: value → text or JSON; ``encoded``: images within values
- ``images/``: from a cell to upright RGB; ``image_formats``: the supported formats
- ``notes``: warnings about a table before a run starts
- ``answers``: tables of answers from elsewhere
"""

from vlmscope.dataset.answers import (
    ANSWER_TABLES,
    AnswerFields,
    AnswerTable,
    parse_answer_mapping,
    read_answers,
)
from vlmscope.dataset.image_formats import known_formats
from vlmscope.dataset.images.arrays import image_of_array
from vlmscope.dataset.images.image import (
    check_headers,
    difference_hash,
    hash_image,
    image_size,
    load_image,
)
from vlmscope.dataset.images.locate import read_images
from vlmscope.dataset.images.thumbnail import Thumbnails, image_thumbnail, read_thumbnails
from vlmscope.dataset.mapping import Mapped, fields_of
from vlmscope.dataset.notes import table_notes
from vlmscope.dataset.rows.columns import parse_mapping
from vlmscope.dataset.rows.reader import Identity
from vlmscope.dataset.share import Share
from vlmscope.dataset.table import Table, TableScan, open_table, read_samples
from vlmscope.dataset.tables.memory import InMemory, in_memory, with_listed_paths
from vlmscope.dataset.tables.opening import (
    Data,
    absolute_data,
    absolute_name,
    folder_of_images,
    shown_data,
)
from vlmscope.dataset.unchanged import UntilChanged
from vlmscope.dataset.values import CellError, to_target

__all__ = [
    "ANSWER_TABLES",
    "AnswerFields",
    "AnswerTable",
    "CellError",
    "Data",
    "Identity",
    "InMemory",
    "Mapped",
    "Share",
    "Table",
    "TableScan",
    "Thumbnails",
    "UntilChanged",
    "absolute_data",
    "absolute_name",
    "check_headers",
    "difference_hash",
    "fields_of",
    "folder_of_images",
    "hash_image",
    "image_of_array",
    "image_size",
    "image_thumbnail",
    "in_memory",
    "known_formats",
    "load_image",
    "open_table",
    "parse_answer_mapping",
    "parse_mapping",
    "read_answers",
    "read_images",
    "read_samples",
    "read_thumbnails",
    "shown_data",
    "table_notes",
    "to_target",
    "with_listed_paths",
]
