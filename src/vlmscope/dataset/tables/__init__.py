"""Readers of tables, each a ``source``: rows of plain values with their columns.

- ``opening``: from what the user typed to a reader; ``several``: several tables read as one
- ``text``: files on disk, decompressed and decoded
- ``csv``: CSV and TSV; ``quotes``: whether quotation marks in a TSV file quote
- ``json``: JSON and JSON lines; ``records``: where the rows stand in a document
- ``parquet``, ``hub``: tables of pyarrow and datasets
- ``memory``: data frames, datasets, lists of dicts and samples
"""
