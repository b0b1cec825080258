"""The files of a run: names, ``run.json``, shards and what must hold before a row is read.

- ``naming``: question id ↔ HDF5 link, position ↔ group and attribute
- ``manifest``: ``run.json``, and how two manifests differ
- ``batch``: a batch of captures as columns, checked before it is written
- ``columns``: the columns of a shard under ``/_columns``
- ``row_groups``: the HALP layout, one group per question
- ``shard``: an immutable HDF5 shard, built in memory and published whole
- ``validation``: what columns must be before a row of them is read
- ``checksums``: of every column, and the seal of a whole file
- ``hdf5_links``: reading an HDF5 file of unknown origin without opening another
- ``hdf5_screening``: reading it first in a process with limits (``hdf5_screening_child``)
"""
