"""Datasets and attributes by h5py's low-level API, which takes a third of the time of the other.

A shard has hundreds of them, so this decides what a batch of a few rows costs. The types are those
that ``create_dataset`` and ``attrs`` choose.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray

TEXT = h5py.string_dtype()
"""The type of strings."""

_TEXT_TYPE = h5t.py_create(TEXT, logical=True)
_SCALAR = h5s.create(h5s.SCALAR)

_PLAIN = h5p.create(h5p.DATASET_CREATE)
_PLAIN.set_obj_track_times(False)

_GROUP = h5p.create(h5p.GROUP_CREATE)
_GROUP.set_obj_track_times(False)


def write_attribute(owner: Any, name: str, value: Any) -> None:
    """Write a new attribute, a text or a number, on a low-level object."""
    if isinstance(value, str):
        data, kind = np.array(value, dtype=TEXT), _TEXT_TYPE
    else:
        data = np.asarray(value)
        kind = h5t.py_create(data.dtype, logical=True)
    h5a.create(owner, name.encode(), kind, _SCALAR).write(data)


def write_dataset(group: Any, name: str, data: NDArray[Any]) -> Any:
    """Write an array as a new dataset in a low-level group; return it, low-level."""
    kind = h5t.py_create(data.dtype, logical=True)
    space = h5s.create_simple(data.shape)
    dataset = h5d.create(group, name.encode(), kind, space, _PLAIN)
    dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(data))
    return dataset


def group_at(groups: dict[str, Any], path: str) -> Any:
    """Return the low-level group at a path, which is created if needed.

    Args:
        groups: The groups so far by their paths, ``""`` for the outermost; new ones are added.
        path: Names with ``/`` between them.
    """
    if path not in groups:
        parent, _, name = path.rpartition("/")
        groups[path] = h5g.create(group_at(groups, parent), name.encode(), None, _GROUP)
    return groups[path]
