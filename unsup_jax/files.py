"""Rows of files, batch by batch: `.npy` (memory-mapped) and Parquet, one file or many shards.

    data = files.read(["part-0.npy", "part-1.npy"], batch_size=100_000)
    for x in data: ...                        # arrays of 100,000 rows, across the files; a new pass
    mine = data.rows(distributed.process_rows(len(data)))        # those of this process only

Headers are checked when `read` is called, so that a missing or odd shard is named before any work.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Name = str | os.PathLike[str]


class Shard(NamedTuple):
    """One file: its path, its rows and columns, and the type of its numbers."""

    path: Path
    n_rows: int
    n_features: int
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Files:
    """Batches of the rows of some files, in order, as often as asked.

    Attributes:
        shards: The files.
        batch_size: Rows of a batch; the last one may be shorter.
        span: The rows of all files together that are read.
    """

    shards: tuple[Shard, ...]
    batch_size: int
    span: range

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.span)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read the batches, none of them twice."""
        left, batch, filled = len(self), np.empty(0), 0
        for piece in self._pieces():
            while len(piece):
                if filled == len(batch):
                    size = min(self.batch_size, left)
                    batch, filled = np.empty((size, self.n_features), self.dtype), 0
                taken = min(len(piece), len(batch) - filled)
                batch[filled : filled + taken] = piece[:taken]
                piece = piece[taken:]
                filled, left = filled + taken, left - taken
                if filled == len(batch):
                    yield batch

    @property
    def n_features(self) -> int:
        """Columns of the data."""
        return self.shards[0].n_features

    @property
    def dtype(self) -> np.dtype:
        """Type of their numbers."""
        return self.shards[0].dtype

    def rows(self, part: range) -> Files:
        """The same files, only some of the rows: `part` of those that are read here."""
        span = self.span[part.start : part.stop]
        return dataclasses.replace(self, span=span)

    def array(self) -> np.ndarray:
        """All the rows in memory."""
        whole = dataclasses.replace(self, batch_size=max(len(self), 1))
        return next(iter(whole), np.empty((0, self.n_features), self.dtype))

    def _pieces(self):
        """Arrays of rows, never across files."""
        first = 0
        for shard in self.shards:
            start = max(self.span.start - first, 0)
            stop = min(self.span.stop - first, shard.n_rows)
            if start < stop:
                reader = _parquet_rows if shard.path.suffix == ".parquet" else _npy_rows
                try:
                    yield from reader(shard.path, start, stop, self.batch_size)
                except (OSError, ValueError) as error:  # it has changed since `read`
                    raise ValueError(f"'{shard.path}' can't be read: {error}") from error
            first += shard.n_rows


def read(paths: Name | Sequence[Name], *, batch_size: int = 65536) -> Files:
    """The rows of one file, or of several in the order given.

    Args:
        paths: `.npy` files of a matrix, and Parquet files with one column a feature (`.parquet`;
            needs pyarrow, which `unsup-jax[stream]` installs).
        batch_size: Rows of a batch.

    Raises:
        ValueError: If a file is missing or damaged, holds no floating-point matrix, or numbers of
            another type or rows of another width than the first file. The message names it.
    """
    names = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not names:
        raise ValueError("paths must name at least one file, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    shards = tuple(_header(Path(name)) for name in names)
    first = shards[0]
    for shard in shards:
        if shard.dtype != first.dtype:
            raise ValueError(
                f"'{shard.path}' holds {shard.dtype}, but '{first.path}' {first.dtype}"
            )
        if shard.n_features != first.n_features:
            raise ValueError(
                f"'{shard.path}' has {shard.n_features} columns, but '{first.path}' "
                f"{first.n_features}"
            )
    return Files(shards, batch_size, range(sum(shard.n_rows for shard in shards)))


def _header(path):
    if not path.exists():
        raise ValueError(f"'{path}' does not exist")
    known = {".npy": _npy_header, ".parquet": _parquet_header}
    if path.suffix not in known:
        raise ValueError(f"'{path}' must be a {' or '.join(known)} file")
    try:
        shape, dtype = known[path.suffix](path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"'{path}' can't be read: {error}") from error
    if len(shape) != 2 or dtype.kind != "f":
        raise ValueError(
            f"'{path}' must hold a floating-point matrix, it holds {dtype} of shape {shape}"
        )
    n_rows, n_features = shape
    return Shard(path, n_rows, n_features, dtype)


def _npy_header(path):
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape, array.dtype


def _npy_rows(path, start, stop, size):
    for row in range(start, stop, size):
        # A new map each time: pages of the last one no longer count as memory in use.
        yield np.load(path, mmap_mode="r", allow_pickle=False)[row : min(row + size, stop)]


def _parquet():
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install unsup-jax[stream]") from error
    return parquet


def _parquet_header(path):
    with _parquet().ParquetFile(path) as file:
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
    types = {field.type for field in schema}
    if len(types) != 1:
        names = ", ".join(sorted(map(str, types)))
        raise ValueError(f"its columns are of different types: {names}")
    return (n_rows, len(schema)), np.dtype(types.pop().to_pandas_dtype())


def _parquet_rows(path, start, stop, size):
    with _parquet().ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if first < stop and start < last:  # groups of other processes are not read
                for batch in file.iter_batches(size, row_groups=[group]):
                    piece = np.stack([column.to_numpy(False) for column in batch.columns], axis=1)
                    yield piece[max(start - first, 0) : max(stop - first, 0)]
                    first += len(piece)
            first = last
