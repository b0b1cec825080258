"""A table of questions about images, whatever file it comes in, as a stream of ``Sample``.

    text = files on disk (_text)    arrow = libraries' tables    in memory
    _csv   _json                    _parquet   _hub              _memory (_held: PIL images)
        └──────┴── rows of plain values ──┴──────┴─────────────────┘   (_open, _several: which ones)
                          │
       _columns (which column is what), _fields (the names in use), _pattern (texts of columns),
       _values (value → text or JSON), _images and _encoded (cell → no, one or several images),
       _shared_images (cell → the image of another row),
       _locate and _finding (image → bytes or path)
                          │
                 _rows (row → Sample)
                          │
        _table (the front: scan, rows), _share (which of them a rank does),
        _unchanged (rows held against the scan), _notes (what to say of a table before the start),
       _answers (another front: tables of answers that were made elsewhere)

Images are opened late, one at a time, by ``load_image``; reading a table never opens one. That
keeps memory flat and makes a broken image the failure of one row.
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
from vlmscope.dataset._rows import Identity, Place
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
    "Place",
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
