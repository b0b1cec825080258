"""Reads HDF5 files of unknown origin without opening any other file that they refer to.

HDF5 follows external links, soft links, virtual datasets and external storage to any path, and
returns what it finds as the file's own data. Here a member is opened through hard links only, its
values must be in the same file, and it must contain about as many bytes as it declares: a file of a
kilobyte can declare a petabyte. Whether HDF5 itself can handle a crafted file is tested earlier:
see ``hdf5_screening``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5f, h5g, h5l, h5o, h5t

from vlmscope.errors import StoreError
from vlmscope.store.storage.object_store import RemoteFile, open_file


def file_name(item: Any) -> str:
    """Return the name of the file that contains a low-level object, for display."""
    return str(remote_of(item) or _hdf5_name(item))


def remote_of(item: Any) -> RemoteFile | None:
    """Return the remote file that contains a low-level object, or None for a local file."""
    return open_file(_hdf5_name(item))


def _hdf5_name(item: Any) -> str:
    return str(h5f.get_name(item).decode("utf-8", "surrogateescape"))


MOST_EXPANSION = 1100
"""Largest ratio of declared to stored bytes: gzip, which research files may use, reaches 1,032."""

DEEPEST = 8
"""Maximum nesting of groups; our layout and that of the HALP research code have three levels."""

_KINDS = {h5l.TYPE_EXTERNAL: "an external link", h5l.TYPE_SOFT: "a soft link"}
_OF_PARTS = (h5t.TypeVlenID, h5t.TypeCompoundID, h5t.TypeArrayID, h5t.TypeReferenceID)

_SHARD = re.compile(rb"shards/[A-Za-z0-9_.-]+\.h5")
_HERE = b"."
_REMEDY = "files outside a run are never read; put the data itself there, or get a complete copy"


def member(group: Any, path: str) -> Any:
    """Return a group or dataset below a group, found by hard links only.

    Args:
        group: An open file or group.
        path: Names with ``/`` between them.

    Raises:
        KeyError: There is no such member.
        StoreError: A link leads out of the group's own tree, or a dataset's values are in another
            file.
    """
    found = group.id
    for name in path.encode("utf-8", "surrogateescape").split(b"/"):
        if not isinstance(found, h5g.GroupID):
            raise KeyError(path)
        found = open_link(found, name)
    return _wrapped(found)


def is_there(group: Any, name: str) -> bool:
    """Return whether a group has a hard link of this name; other links are not followed."""
    link = name.encode("utf-8", "surrogateescape")
    links = group.id.links
    return bool(links.exists(link) and links.get_info(link).type == h5l.TYPE_HARD)


def walk(
    group: Any, *, values: bool = True, skipped: Callable[[str], bool] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield path and dataset of everything below a group, in the group's order.

    Args:
        group: An open file or group.
        values: Whether the values will be read; if not, they may be in another file.
        skipped: Whether what is at a path, a group or a dataset, is not opened (default: nothing
            is skipped).

    Raises:
        StoreError: As ``member``; or a group occurs twice, or within itself, or it is no group.
    """
    if not isinstance(group, h5py.Group):
        raise StoreError(
            f"{file_name(group.id)}: {group.name} is not a group; the file is damaged, get a "
            "complete copy"
        )
    for name, dataset in walk_links(group.id, set(), values=values, skipped=skipped):
        yield name, h5py.Dataset(dataset)


def walk_links(
    group: Any,
    seen: set[int],
    prefix: str = "",
    *,
    values: bool = True,
    skipped: Callable[[str], bool] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield path and low-level dataset of everything below a low-level group.

    Args:
        group: The group.
        seen: Addresses of the groups visited so far; those of this walk are added.
        prefix: Path of the group, ending with ``/``.
        values: As in ``walk``.
        skipped: As in ``walk``.

    Raises:
        StoreError: As ``walk``.
    """
    address = int(h5o.get_info(group).addr)
    if address in seen or prefix.count("/") > DEEPEST:
        raise StoreError(
            f"{file_name(group)}: {prefix.rstrip('/') or 'a group'!r} occurs twice, or is nested "
            "too deeply; the file is damaged, get a complete copy"
        )
    seen.add(address)
    for link in group:
        name = prefix + link.decode("utf-8", "replace")
        if skipped is not None and skipped(name):
            continue
        item = open_link(group, link, values=values)
        if isinstance(item, h5d.DatasetID):
            yield name, item
        elif isinstance(item, h5g.GroupID):
            yield from walk_links(item, seen, f"{name}/", values=values, skipped=skipped)


def open_link(group: Any, name: bytes, *, values: bool = True) -> Any:
    """Open the target of a hard link of a low-level group, as a low-level object.

    Args:
        group: The group.
        name: The link.
        values: Whether the values of a dataset will be read.

    Raises:
        KeyError: There is no such link.
        StoreError: It is another kind of link, or a dataset whose values are in another file.
    """
    try:
        kind = group.links.get_info(name).type
    except RuntimeError:  # HDF5's error for a missing link
        if group.links.exists(name):
            raise
        raise KeyError(name.decode("utf-8", "replace")) from None
    if kind != h5l.TYPE_HARD:
        raise _refusal(group, name, _KINDS.get(kind, "a link of an unknown kind"))
    found = h5o.open(group, name)
    if values and isinstance(found, h5d.DatasetID):
        _check_storage(found, name.decode("utf-8", "replace"))
    return found


def index_target(root: Any, name: bytes) -> tuple[Path, bytes] | None:
    """Return the target of a link of a run's index: the shard, and the link in it.

    Args:
        root: An open file, low-level.
        name: The link.

    Returns:
        None for a link that is not external.

    Raises:
        StoreError: The target is anything but a row of a shard in the same run.
    """
    if root.links.get_info(name).type != h5l.TYPE_EXTERNAL:
        return None
    target, path = root.links.get_val(name)
    folder = Path(os.path.realpath(file_name(root))).parent
    shard = folder / target.decode("utf-8", "replace")
    inside = _SHARD.fullmatch(target) and os.path.realpath(shard) == str(shard)
    if not inside or path[:1] != b"/" or b"/" in path[1:]:
        raise _refusal(root, name, _KINDS[h5l.TYPE_EXTERNAL])
    return shard, path[1:]


def _refusal(group: Any, name: bytes, kind: str) -> StoreError:
    shown = name.decode("utf-8", "replace")
    return StoreError(f"{file_name(group)}: {shown!r} is {kind}; {_REMEDY}")


def _wrapped(item: Any) -> Any:
    if isinstance(item, h5d.DatasetID):
        return h5py.Dataset(item)
    return h5py.Group(item) if isinstance(item, h5g.GroupID) else item


def _check_storage(dataset: Any, name: str) -> None:
    """Refuse a dataset with values in another file, or with far fewer bytes than it declares."""
    if dataset.get_offset() is None:  # else it is one piece of this file
        created = dataset.get_create_plist()
        if created.get_external_count():
            raise StoreError(
                f"{file_name(dataset)}: {name!r} keeps its values in other files; {_REMEDY}"
            )
        if created.get_layout() == h5d.VIRTUAL:
            _check_sources(dataset, created, name)
            return
    count, stored, kind = _count(dataset), dataset.get_storage_size(), dataset.get_type()
    declared = count * kind.get_size()
    if _is_listed(dataset, kind, name):
        if count and (dataset.get_offset() is None or stored != 16 * count):
            raise _never_written(dataset, name)
    elif declared > MOST_EXPANSION * stored:
        raise StoreError(
            f"{file_name(dataset)}: {name!r} declares {declared:,} bytes and contains {stored:,}; "
            "it is damaged, or made to fill the memory: get a complete copy"
        )


def _count(dataset: Any) -> int:
    """Return the number of values: one without dimensions, none without a dataspace."""
    shape = dataset.shape
    return 0 if shape is None else math.prod(shape)


def _is_listed(dataset: Any, kind: Any, name: str) -> bool:
    """Return whether the values have variable length (texts or lists); refuse nested lists."""
    if isinstance(kind, h5t.TypeStringID):
        return bool(kind.is_variable_str())
    if not kind.detect_class(h5t.VLEN):
        return False
    if not isinstance(kind, h5t.TypeVlenID) or isinstance(kind.get_super(), _OF_PARTS):
        raise _never_written(dataset, name)
    return True


def _never_written(dataset: Any, name: str) -> StoreError:
    return StoreError(
        f"{file_name(dataset)}: {name!r} is stored in a way that vlmscope never writes; get a "
        "complete copy"
    )


def _check_sources(dataset: Any, created: Any, name: str) -> None:
    """Refuse a virtual dataset that is more than a window of plain columns of its own file."""
    columns = h5g.open(dataset, b"/")
    size = dataset.get_type().get_size()
    declared, shown = _count(dataset) * size, 0
    for number in range(created.get_virtual_count()):
        if created.get_virtual_filename(number).encode() != _HERE:
            raise StoreError(f"{file_name(dataset)}: {name!r} shows another file; {_REMEDY}")
        source: Any = columns
        for part in created.get_virtual_dsetname(number).encode().strip(b"/").split(b"/"):
            source = _open_source(source, part, name)
        shown += _count(source) * size
    if declared > shown:
        raise StoreError(
            f"{file_name(dataset)}: {name!r} declares {declared:,} bytes and shows {shown:,}; "
            "it is damaged, or made to fill the memory: get a complete copy"
        )


def _open_source(group: Any, part: bytes, name: str) -> Any:
    """Open one part of the path to the source of a virtual dataset, which must not be virtual."""
    found = open_link(group, part)
    virtual = (
        isinstance(found, h5d.DatasetID) and found.get_create_plist().get_layout() == h5d.VIRTUAL
    )
    if virtual or b"%" in part:
        raise StoreError(f"{file_name(group)}: {name!r} shows data that is not a column; {_REMEDY}")
    return found
