"""Readers of tables, each a ``Source``: rows of plain values with their columns.

- ``opening``: from what the user typed to a reader; ``several``: several tables read as one
- ``text``: files on disk, decompressed and decoded
- ``csv``: CSV and TSV; ``dialect``: their delimiter, and whether quotation
  marks quote
- ``json``: JSON and JSON Lines; ``records``: location of the rows in a document
- ``parquet``, ``hub``: tables of pyarrow and datasets
- ``memory``: data frames, datasets, lists of dicts and samples
"""
