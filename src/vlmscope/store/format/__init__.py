"""The files of a run: names, ``run.json``, shards and the checks before a row is read.

- ``naming``: question id ↔ HDF5 link, position ↔ group and attribute
- ``manifest``: ``run.json``, and the differences between two manifests
- ``size``: the approximate size of a run
- ``batch``: a batch of captures as columns; ``capture_checks``: checks before it is written
- ``columns``: the columns of a shard under ``/_columns``
- ``token_rows``: arrays of several tokens of each row, under ``/_tokens``
- ``low_level``: datasets and attributes by the quicker API of h5py
- ``row_groups``: the HALP layout, one group per question
- ``shard``: an immutable HDF5 shard, built in memory and published at once
- ``validation``: checks of the columns before a row of them is read
- ``checksums``: the checksum of every column, and of a complete file (its seal)
- ``hdf5_links``: reading an HDF5 file of unknown origin without opening another
- ``hdf5_screening``: reads such a file first in a process with limits (``hdf5_screening_child``)
"""
