"""A table of questions about images, whatever file it comes in, as a stream of ``Sample``.

Readers of tables, each a ``_source``: rows of plain values with their columns.

- ``_open``: from what the user typed to a reader; ``_several``: several tables read as one
- ``_text``: files on disk, decompressed and decoded; ``_csv`` (``_quotes``: do the marks quote?)
  and ``_json`` (``_records``: where the rows stand in a document)
- ``_parquet``, ``_hub``: libraries' tables; ``_memory`` (``_held``: PIL images): tables in memory

From a row to a sample.

- ``_columns``: which column is what; ``_fields``: the names in use; ``_pattern``: texts of columns
- ``_values``: value → text or JSON; ``_images``, ``_encoded``: cell → no, one or several images
- ``_shared_images``: cell → the image of another row
- ``_locate``, ``_finding``: image → bytes or path
- ``_rows``: row → ``Sample``; ``_together``: columns that make an id together
- ``_table``: the front: scan and rows; ``_share``: the rows of one rank; ``_unchanged``: rows held
  against the scan
- ``_notes``: what to say of a table before the start; ``_marks``, ``_unasked``: placeholders and
  options in it
- ``_answers``: another front: tables of answers that were made elsewhere

From a file to an image, opened late and one at a time by ``load_image``: reading a table never
opens one. That keeps memory flat and makes a broken image the failure of one row.

- ``_image``: the RGB a person sees; ``_image_file``: a file, read under limits
- ``_image_formats``, ``_image_jpeg``: which formats are opened, and a JPEG's segments
- ``_pixels``: every pixel format → 8-bit RGB; ``_thumbnail``: the small copy kept with a row
"""

from vlmscope.dataset._answers import (
    ANSWER_TABLES,
    AnswerFields,
    AnswerTable,
    parse_answer_mapping,
    read_answers,
)
from vlmscope.dataset._columns import parse_mapping
from vlmscope.dataset._image import difference_hash, hash_image, load_image
from vlmscope.dataset._locate import read_images
from vlmscope.dataset._memory import InMemory, in_memory
from vlmscope.dataset._notes import table_notes
from vlmscope.dataset._open import Data, absolute_data, absolute_name, shown_data
from vlmscope.dataset._rows import Identity
from vlmscope.dataset._share import Share
from vlmscope.dataset._table import Table, TableScan, open_table, read_samples
from vlmscope.dataset._thumbnail import Thumbnails, image_thumbnail, read_thumbnails
from vlmscope.dataset._unchanged import UntilChanged
from vlmscope.dataset._values import CellError, to_target

__all__ = [
    "ANSWER_TABLES",
    "AnswerFields",
    "AnswerTable",
    "CellError",
    "Data",
    "Identity",
    "InMemory",
    "Share",
    "Table",
    "TableScan",
    "Thumbnails",
    "UntilChanged",
    "absolute_data",
    "absolute_name",
    "difference_hash",
    "hash_image",
    "image_thumbnail",
    "in_memory",
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
]
