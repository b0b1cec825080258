"""Reading a run, by its columns; the row groups contain the same numbers for plain h5py.

Opening reads the ids; nothing else is kept in memory, and no file is kept open, so a writer may
continue in the meantime.
"""

from __future__ import annotations

import html
from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from functools import cached_property
from itertools import accumulate, groupby
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vlmscope.arguments import whole_number
from vlmscope.errors import (
    InputError,
    StoreError,
    UnknownIdError,
    VlmscopeError,
    shortened,
    suggest_names,
)
from vlmscope.positions import representation as group_of
from vlmscope.positions import sublayer_representation
from vlmscope.sampling import LENGTHS
from vlmscope.schema import Answered, Capture, Failure, Outcome, Score
from vlmscope.signals import INTEGERS, LENS_TOKENS
from vlmscope.store.catalog import (
    Shard,
    read_blocks,
    read_column_into,
    read_rows,
    read_shard,
    read_texts,
    read_tokens,
    scan,
    signals_in,
    vanished,
)
from vlmscope.store.damage import REMEDY, damage_of
from vlmscope.store.failures import read_failures
from vlmscope.store.format.batch import QUESTION_ID, Block, captures_of, metadata_of, take
from vlmscope.store.format.hdf5_screening import screen_ahead
from vlmscope.store.format.manifest import Manifest, read_manifest
from vlmscope.store.format.naming import shown_layers, shown_signals, signal_path, vector_path
from vlmscope.store.format.token_rows import TokenRows
from vlmscope.store.ground_truths import read_ground_truths, with_ground_truths
from vlmscope.store.iloc import RowsByNumber
from vlmscope.store.labels import DEFAULT, label_sets, read_labels
from vlmscope.store.storage.paths import path_of
from vlmscope.store.table import THUMBNAIL, frame, labels_frame, lens_frame, lists_of

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

SHOWN_ROWS = 5
"""Number of rows in the notebook view of a run."""

AnyRun: TypeAlias = "Run | str | PathLike[str]"
"""A run, or the folder or URL that it is in."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def open_run(path: AnyRun) -> Run:
    """Open the published rows of a run for reading; a writer may be active.

    Args:
        path: The run folder, or its URL in an object store, such as ``s3://bucket/run``; or a run,
            which is opened again.

    Raises:
        InputError: It is not a run, or the URL cannot be opened.
        StoreError: The run is damaged.
        UnreachableError: The object store does not answer.
    """
    return Run.open(path)


def as_run(run: AnyRun) -> Run:
    """Return a run unchanged, or opened if its folder is given.

    Raises:
        InputError: It is neither, or there is no run in the folder.
        StoreError: The run is damaged.
        UnreachableError: The object store does not answer.
    """
    return run if isinstance(run, Run) else open_run(run)


class Run:
    """The rows of a run folder, in the order they were written. Returned by ``open_run``."""

    def __init__(self, path: Path, manifest: Manifest, shards: list[Shard]) -> None:
        self.path = path
        self.manifest = manifest
        self.ids: tuple[str, ...] = tuple(id_ for shard in shards for id_ in shard.ids)
        """The question ids. Row i of every matrix belongs to ``ids[i]``."""
        self._shards = shards

    @classmethod
    def open(cls, path: AnyRun) -> Self:
        """Open a run for reading: see ``open_run``."""
        folder = path_of(path)
        manifest = read_manifest(folder)
        return cls(folder, manifest, scan(folder)[0])

    @cached_property
    def _locations(self) -> dict[str, tuple[Shard, int]]:
        """Shard and index of each row, by id. Computed on demand: most readers need columns."""
        return {
            id_: (shard, row)
            for shard in self._shards
            for id_, row in zip(shard.ids, shard.rows, strict=True)
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(self._summary())})"

    def _summary(self) -> Iterator[str]:
        """Yield the parts of a one-line summary of the run, without raising errors."""
        manifest = self.manifest
        yield repr(str(self.path))
        yield f"{len(self):,} {'row' if len(self) == 1 else 'rows'}"
        yield manifest.model.name
        yield ", ".join(manifest.capture.positions)
        yield f"layers {shown_layers(manifest.capture.layers, manifest.model.num_layers)}"
        yield from self._label_summary()

    def _label_summary(self) -> Iterator[str]:
        try:
            sets = label_sets(self.path)
            if not sets:
                yield "no labels"
            for name in sets:
                counts = Counter(score.outcome for score in read_labels(self.path, name).values())
                shown = ", ".join(f"{counts[each]:,} {each}" for each in OUTCOMES if counts[each])
                yield f"labels {name}: {shown or 'none'}"
        except VlmscopeError:
            yield "labels cannot be read"

    def _repr_html_(self) -> str:
        """Return the summary for a notebook, with the first rows."""
        summary = html.escape(f"{type(self).__name__}: {'; '.join(self._summary())}")
        try:
            rows = self._first_rows().to_html()
        except VlmscopeError:
            rows = "<p>rows cannot be read</p>"
        return f"<div><p>{summary}</p>{rows}</div>"

    def _first_rows(self, count: int = SHOWN_ROWS) -> pd.DataFrame:
        """Return the first rows for display: the texts, and the label if there is one."""
        blocks = []
        for shard in self._shards:
            blocks.append(
                with_ground_truths(read_rows(shard, vectors=False), self.changed_ground_truths)
            )
            if sum(map(len, blocks)) >= count:
                break
        table = frame(blocks).head(count)
        if not len(table):
            return table
        names = ("question", "answer", "ground_truth_answer")
        shown = table.set_index(QUESTION_ID)[[name for name in names if name in table]]
        if DEFAULT in label_sets(self.path):
            shown["label"] = self.labels()["outcome"].reindex(shown.index)
        return shown

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._locations

    def __getitem__(self, id_: str) -> Capture:
        """Return one question's capture.

        Raises:
            UnknownIdError: There is no such question. A subclass of ``KeyError``.
        """
        key: Any = id_
        if not isinstance(key, str):
            number = _subscript(key)
            raise UnknownIdError(
                f"run[{number}]: expected the id of a question, which is text; use "
                f"run.iloc[{number}] to select rows by number"
            )
        if id_ not in self._locations:
            raise UnknownIdError(
                f"{self.path}: no question {shortened(id_)!r} among {len(self)} rows; "
                f"{suggest_names(id_, self.ids)}"
            )
        shard, row = self._locations[id_]
        block = read_shard(shard.path, slice(row, row + 1))
        return next(captures_of(with_ground_truths(block, self.changed_ground_truths)))

    @property
    def iloc(self) -> RowsByNumber:
        """Rows by number: ``run.iloc[0]`` is a capture, ``run.iloc[:2]`` a list of captures."""
        return RowsByNumber(self)

    def captures(self, numbers: Iterable[int]) -> Iterator[Capture]:
        """Yield the captures of some rows, in the given order.

        Args:
            numbers: Numbers of rows, from 0 to the number of rows minus one.
        """
        starts = list(accumulate((len(shard) for shard in self._shards), initial=0))
        located = ((bisect_right(starts, number) - 1, number) for number in numbers)
        for which, group in groupby(located, key=lambda pair: pair[0]):
            shard = self._shards[which]
            rows = [shard.rows[number - starts[which]] for _, number in group]
            first = min(rows)
            block = read_shard(shard.path, slice(first, max(rows) + 1))
            wanted = take(block, [row - first for row in rows])
            yield from captures_of(with_ground_truths(wanted, self.changed_ground_truths))

    def __iter__(self) -> Iterator[Capture]:
        """Yield every capture; one shard is in memory at a time."""
        for block in self.blocks():
            yield from captures_of(block)

    def blocks(self, *, vectors: bool = True, signals: Container[str] = ()) -> Iterator[Block]:
        """Yield the rows as columns, shard by shard; without vectors only some ``signals``."""
        self._screen_ahead()
        for block in read_blocks(self._shards, vectors=vectors, signals=signals):
            yield with_ground_truths(block, self.changed_ground_truths)

    def _screen_ahead(self, depth: str = "columns") -> None:
        """Start screening the shards that will be read."""
        screen_ahead((shard.path, depth) for shard in self._shards)

    @cached_property
    def changed_ground_truths(self) -> dict[str, str]:
        """Ground truths that changed in the table after their rows were captured, by question id.

        They replace the shards' ``ground_truth_answer`` everywhere except in ``texts``.
        """
        return read_ground_truths(self.path)

    def texts(self, *names: str, skip_damaged: bool = False) -> Iterator[tuple[str, ...]]:
        """Yield columns of strings as stored in the shards, one tuple per row.

        Args:
            names: The columns, such as ``question_id``.
            skip_damaged: Leave out the rows of a shard that cannot be read.

        Raises:
            StoreError: A column that is read is damaged.
        """
        self._screen_ahead()
        for shard in self._shards:
            try:
                yield from read_texts(shard, names)
            except StoreError:
                if not skip_damaged:
                    raise

    def answers(self) -> Iterator[Answered]:
        """Yield the input of a scorer for every row, in the order of ``ids``, without vectors."""
        for block in self.blocks(vectors=False):
            texts = block.texts
            answers: list[str] | list[None] = texts.get("answer") or [None] * len(block)
            names = (QUESTION_ID, "question", "ground_truth_answer", "metadata")
            columns = (texts[name] for name in names)
            for id_, question, target, metadata, answer in zip(*columns, answers, strict=True):
                yield Answered(id_, question, answer, target, metadata_of(metadata))

    def labels(self, name: str = DEFAULT) -> pd.DataFrame:
        """Return a label set as a table, row i belonging to ``ids[i]``; the index is the id.

        The columns are ``outcome`` (``hallucinated``, ``faithful``, ``unscorable`` or
        ``unlabelled``), ``hallucinated`` (true, false, or missing), ``error_kind``, ``scorer`` and
        ``evidence``. ``read_labels`` returns the set as it was written.

        Args:
            name: The label set.

        Raises:
            InputError: The run has no such labels yet.
            StoreError: The file is damaged.
        """
        found = read_labels(self.path, name)
        unlabelled = Score("", None, "", "", labelled=False)
        return labels_frame(self.ids, [found.get(id_, unlabelled) for id_ in self.ids])

    @property
    def representations(self) -> tuple[str, ...]:
        """The names that ``matrix`` accepts, besides those of the positions."""
        return tuple(self.manifest.representations())

    def layers(self, representation: str) -> tuple[int, ...]:
        """Return the layers of a representation; empty for the vision encoder's output.

        Args:
            representation: Its name, or that of its position: ``last_prompt_token``.

        Raises:
            InputError: The run does not have it.
        """
        known = self.manifest.representations()
        name = group_of(representation)
        if name not in known:
            positions = self.manifest.capture.positions
            near = suggest_names(str(representation), (*known, *positions))
            close = f"; {near}" if near.startswith("did") else ""
            raise InputError(
                f"{self.path}: no representation {representation!r}, there are "
                f"{', '.join((*known, *positions))}{close}"
            )
        return known[name]

    def column(self, representation: str, layer: int | None = None) -> str:
        """Return the HDF5 path of a vector, as ``Capture.vectors`` has it.

        Args:
            representation: Its name, or that of its position: ``last_prompt_token``.
            layer: The decoder layer, a negative one counted from the model's last; None for
                the vision encoder's output.

        Raises:
            InputError: The run does not have it.
        """
        layers = self.layers(representation)
        number = None if layer is None else self._layer_number(layer)
        if (number not in layers) if layers else (layer is not None):
            counted = "" if number == layer else f" (the model's layer {number})"
            asked = "no layer given" if layer is None else f"no layer {layer!r}{counted}"
            have = f"layers {', '.join(map(str, layers))}" if layers else "no layers"
            raise InputError(f"{self.path}: {asked}, {representation} has {have}")
        return vector_path(representation, number)

    def _layer_number(self, layer: Any) -> int:
        """Return the number of a layer, which may count from the end of the model's layers."""
        number, depth = whole_number("layer", layer), self.manifest.model.num_layers
        if -depth <= number < 0:
            return number + depth
        return number

    def matrix(
        self, representation: str, layer: int | None = None, *, signal: str = ""
    ) -> NDArray[np.float32]:
        """Return ``[N, D]``, row i belonging to ``ids[i]``.

        ``run.matrix("last_prompt_token", layer=20)`` equals
        ``run.matrix("query_token_representation", layer=20)``.

        A question without an image has no vector of the image's representations: its row is NaN.
        ``matrix[~np.isnan(matrix).any(axis=1)]`` drops these rows, and so does
        ``matrix[run.to_pandas()["image_sha256"] != ""]``.

        Args:
            representation: Its name, or that of its position.
            layer: The decoder layer, a negative one counted from the model's last; None for the
                vision encoder's output.
            signal: The sub-layer, ``heads`` for example, whose vectors are returned instead of the
                hidden states.

        Raises:
            InputError: The run does not have it.
        """
        if signal:
            representation = sublayer_representation(representation, signal)
        path = self.column(representation, layer)
        return self._array(path, (self.manifest.widths()[path],))

    @cached_property
    def signals(self) -> tuple[str, ...]:
        """The names that ``signal`` accepts."""
        names = signals_in(self._shards, self.manifest)
        return tuple(name for name in names if name != LENGTHS)

    def signal(self, name: str) -> NDArray[Any] | list[Any]:
        """Return an array of a signal for all rows, row i belonging to ``ids[i]``.

        Args:
            name: Its name, see docs/signals.md: ``attention_prompt`` for example.

        Returns:
            ``[N, ...]``; a list of arrays ``[T, ...]`` if it is of each token of the answer, and
            ``[tokens, D]`` for states of tokens; of the samples' texts and tokens a list with
            a list for each row. What a question without an image lacks is NaN, −1 in an array of
            integers, and ``[0, D]`` among states of image tokens.

        Raises:
            InputError: The run does not have it.
        """
        if name not in self.signals:
            shown = ", ".join(shown_signals(self.signals)) or "none"
            raise InputError(
                f"{self.path}: no signal {name!r}, there are {shown}; vlmscope extract --signals "
                "selects them"
            )
        if name in self.manifest.token_widths():
            return self._token_rows(name)
        shape = self.manifest.signals()[name]
        if shape is None:
            blocks = self.blocks(vectors=False)
            return [row for block in blocks for row in lists_of(block, name, self.manifest.capture)]
        kind = np.int32 if name in INTEGERS else np.float32
        return self._array(signal_path(name), shape, kind)

    def lens(self, question_id: str, tokenizer: Any = None) -> pd.DataFrame:
        """Return the logit lens of a row as a table with a line per position, layer and token.

        The columns are ``position``, ``layer``, ``rank`` (0 is the likeliest), ``token_id``,
        ``probability`` and, with a tokenizer, ``token``.

        Args:
            question_id: The row.
            tokenizer: That of the model, or its processor; its ``decode`` makes tokens readable.

        Raises:
            InputError: There is no such row, or the run has no logit lens of single positions.
        """
        if LENS_TOKENS not in self.signals:
            raise InputError(
                f"{self.path}: no logit lens of single positions; vlmscope extract --signals lens "
                "records it"
            )
        return lens_frame(self[question_id], self.manifest.capture.recorded, tokenizer)

    def _array(
        self, path: str, shape: tuple[int, ...], kind: type[np.generic] = np.float32
    ) -> NDArray[Any]:
        """Return a column of arrays of a fixed shape."""
        result = np.empty((len(self), *shape), kind)
        start = 0
        self._screen_ahead(f"column {path}")
        for shard in self._shards:
            read_column_into(shard, path, result[start : start + len(shard)])
            start += len(shard)
        return result

    def _token_rows(self, name: str) -> list[NDArray[np.float32]]:
        """Return an array with a vector for each of several tokens, row by row."""
        parts = self.token_parts(name)
        return [part.row(i).astype(np.float32) for part in parts for i in range(len(part))]

    def token_parts(self, name: str) -> Iterator[TokenRows]:
        """Yield an array with a vector for each of several tokens, shard by shard.

        Args:
            name: The array of a signal.

        Raises:
            StoreError: A shard lacks it, or is damaged.
        """
        path = signal_path(name)
        self._screen_ahead()
        for shard in self._shards:
            found = read_tokens(shard, path)
            if found.values.shape[1] != self.manifest.token_widths()[name]:
                raise StoreError(f"{shard.path}: damaged, {path} has another width; {REMEDY}")
            yield found if shard.complete else found.take(shard.rows)

    def to_pandas(self, *, thumbnails: bool = False) -> pd.DataFrame:
        """Return a table with a row per question: texts, numbers, metadata; no vectors.

        A question without an image has an empty ``image_sha256``, and −1 for the boundaries of the
        image.

        Args:
            thumbnails: Include ``image_thumbnail``, about 700 characters of base64 for each image.
        """
        table = frame(self.blocks(vectors=False))
        return table if thumbnails else table.drop(columns=THUMBNAIL, errors="ignore")

    @property
    def failures(self) -> dict[str, Failure]:
        """The questions that failed and have no row."""
        return {id_: f for id_, f in read_failures(self.path).items() if id_ not in self}

    def check(self) -> list[str]:
        """Recompute every checksum; return one line for each problem."""
        return [damage for shard in self._shards for damage in _damage(shard)]


def _subscript(key: Any) -> str:
    """Return a key as the text between the brackets."""
    if not isinstance(key, slice):
        return shortened(repr(key))
    parts = ["" if part is None else repr(part) for part in (key.start, key.stop, key.step)]
    return ":".join(parts if parts[2] else parts[:2])


def _damage(shard: Shard) -> Iterator[str]:
    """Yield the problems of a shard."""
    try:
        yield from (f"{shard.path}: {found}; {REMEDY}" for found in damage_of(shard.path))
    except FileNotFoundError:
        yield str(vanished(shard.path))
