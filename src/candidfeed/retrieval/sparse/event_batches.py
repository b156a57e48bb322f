"""Batches of a log that may be larger than memory, dealt without a Python loop over examples."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from candidfeed.errors import DataError
from candidfeed.retrieval.sparse.sampled_softmax import log_expected_draws

Rows: TypeAlias = NDArray[np.integer]
# What a tower is called with: rows int32 [n], or columns by name, each [n, ...].
TowerInputs: TypeAlias = "NDArray[np.int32] | dict[str, NDArray[Any]]"
# Further negatives: user rows and item rows of a batch to item rows [batch, n_hard].
HardNegatives: TypeAlias = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.int32]]
_CHUNK_BATCHES = 8
_CHUNKS_AT_ONCE = 16
_CHECKED_AT_ONCE = 2**24
_FINGERPRINT_ROWS = 65_536


@dataclass(frozen=True)
class TowerRows:
    """Users or items as their tower reads them.

    Attributes:
        n_rows: how many there are.
        columns: by name, arrays [n_rows, ...], memory-mapped ones too. With columns the tower is
            called with a dict of them; without, with int32 rows. A tower that wants both is given
            the rows as a column: `np.arange(n_rows, dtype=np.int32)`.

    Raises:
        ValueError: a column has another number of rows.
    """

    n_rows: int
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if len(column) != self.n_rows:
                raise ValueError(f"column {name!r} has {len(column)} rows, not {self.n_rows}")

    def inputs(self, rows: Rows) -> TowerInputs:
        """What the tower is called with for these rows."""
        if not self.columns:
            return np.asarray(rows, np.int32)
        return {name: column[rows] for name, column in self.columns.items()}


@dataclass(frozen=True)
class Sampling:
    """What the loss contrasts each positive with.

    Attributes:
        n_uniform: negatives a batch, drawn uniformly from all items and shared by its examples.
        n_in_batch: further shared negatives: the positives of this many examples of the batch, or
            of all where it is smaller.
        hard: further negatives of each example alone, from an index of an earlier state, say;
            -1 is none.
    """

    n_uniform: int = 768
    n_in_batch: int = 256
    hard: HardNegatives | None = None


class SeededBatches(keras.utils.PyDataset, ABC):
    """Batches whose batch i of epoch e depends on the seed, e and i alone.

    So a resumed training goes on with the very batches that it would have seen.

    Attributes:
        epoch: whose order is dealt; `SparseModel.fit` sets it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.epoch = seed, 0

    def rng(self, *what: int) -> np.random.Generator:
        """The random numbers of one use in the present epoch."""
        return np.random.default_rng([self.seed, self.epoch, *what])

    @abstractmethod
    def fingerprint(self) -> dict[str, float]:
        """Numbers that differ where another order of other batches would be dealt."""


class EventBatches(SeededBatches):
    """Positive events in a seeded random order, with the negatives that their loss needs.

    The log is cut into chunks of neighbouring rows, from a place that changes each epoch; the
    chunks are dealt in random order, sixteen at a time, and the rows of those are mixed. So memory
    is bounded, and a log that fits into sixteen chunks (128 batches) is mixed as a whole. Events
    that are left over when an epoch is no multiple of the batch size are others each epoch.

    An element is a tuple of one dict: `user` and `item`, inputs of the towers, the latter for the
    positives, then the uniform negatives, then the hard ones; `item_row` int32, which items these
    are (-1 is none); `uniform_logq` float32 [n_uniform] and `in_batch_logq` float32 [n_in_batch],
    by `log_expected_draws`.

    Args:
        user_row, item_row: aligned events, int32 [n], in memory or memory-mapped (`np.load(...,
            mmap_mode="r")`).
        users, items: who they are.
        batch_size: events a step; all of them where there are fewer.
        sampling: the negatives.
        hide_target_in: columns of users that hold item rows (a history); the positive is replaced
            by `items.n_rows` there, for it must not be read from what it is predicted from.
        seed: of the order and of the negatives.

    Raises:
        DataError: there is no event, the columns differ in length, or a row is not in its table.
    """

    def __init__(
        self,
        user_row: Rows,
        item_row: Rows,
        *,
        users: TowerRows,
        items: TowerRows,
        batch_size: int = 8192,
        sampling: Sampling | None = None,
        hide_target_in: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if len(user_row) != len(item_row) or not len(user_row):
            raise DataError(
                f"training needs events with a user and an item each; there are {len(user_row)} "
                f"users and {len(item_row)} items"
            )
        self.user_row, self.item_row, self.users, self.items = user_row, item_row, users, items
        self.sampling = Sampling() if sampling is None else sampling
        self.batch_size = min(batch_size, len(user_row))
        self.hide_target_in = hide_target_in
        _count(user_row, users.n_rows, "user")
        counts = _count(item_row, items.n_rows, "item")
        self.item_share = (counts / len(item_row)).astype(np.float32)
        self._n_in_batch = min(self.sampling.n_in_batch, self.batch_size)
        self._mixed: tuple[tuple[int, int], NDArray[Any], NDArray[Any]] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.user_row) // self.batch_size

    def __getitem__(self, index: int) -> tuple[dict[str, Any]]:
        """Batch `index` of the present epoch."""
        user, positive = self._events(index)
        drawn = self.rng(1, index).integers(
            self.items.n_rows, size=self.sampling.n_uniform, dtype=np.int32
        )
        rows = [positive, drawn]
        if self.sampling.hard is not None:
            hard = np.asarray(self.sampling.hard(user, positive), np.int32)
            rows.append(hard.reshape(-1))
        item_row = np.concatenate(rows)
        batch = {
            "user": self._without_target(self.users.inputs(user), positive),
            "item": self.items.inputs(np.maximum(item_row, 0)),
            "item_row": item_row,
            "uniform_logq": self._logq(drawn),
            "in_batch_logq": self._logq(positive[: self._n_in_batch]),
        }
        return (batch,)

    def fingerprint(self) -> dict[str, float]:
        """Of a log that may lie on disk its two ends are read."""
        ends = (slice(_FINGERPRINT_ROWS), slice(-_FINGERPRINT_ROWS, None))
        columns = (self.user_row, self.item_row)
        return {
            "events": len(self.user_row),
            "users": self.users.n_rows,
            "items": self.items.n_rows,
            "batch_size": self.batch_size,
            "n_uniform": self.sampling.n_uniform,
            "n_in_batch": self.sampling.n_in_batch,
            "seed": self.seed,
            "checksum": checksum(
                np.asarray(column[end], np.int32) for column in columns for end in ends
            ),
        }

    def _logq(self, items: NDArray[np.int32]) -> NDArray[np.float32]:
        drawn = {"n_uniform": self.sampling.n_uniform, "n_in_batch": self._n_in_batch}
        return log_expected_draws(items, self.item_share, **drawn)

    def _without_target(self, inputs: TowerInputs, positive: NDArray[np.int32]) -> TowerInputs:
        if not isinstance(inputs, dict):
            return inputs
        for name in self.hide_target_in:
            is_target = inputs[name] == positive[:, None]
            inputs[name] = np.where(is_target, self.items.n_rows, inputs[name])
        return inputs

    def _events(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """User and item rows of a batch."""
        per_mix = _CHUNK_BATCHES * _CHUNKS_AT_ONCE
        mix, place = divmod(index, per_mix)
        if self._mixed is None or self._mixed[0] != (self.epoch, mix):
            self._mixed = ((self.epoch, mix), *self._mix(mix))
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        return self._mixed[1][part], self._mixed[2][part]

    def _mix(self, mix: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The events of sixteen chunks, mixed; the epoch's last chunk is the short one."""
        n, size = len(self.user_row), _CHUNK_BATCHES * self.batch_size
        order = self.rng(2)
        first = int(order.integers(n))
        n_whole = n // size
        chunks = [*order.permutation(n_whole), *([n_whole] if n % size else [])]
        mine = chunks[mix * _CHUNKS_AT_ONCE : (mix + 1) * _CHUNKS_AT_ONCE]
        starts = [int(chunk) * size for chunk in mine]
        spans = [(start, min(start + size, n)) for start in starts]
        user = np.concatenate([_ring(self.user_row, first, *span) for span in spans])
        item = np.concatenate([_ring(self.item_row, first, *span) for span in spans])
        shuffled = self.rng(3, mix).permutation(len(user))
        return user[shuffled], item[shuffled]


def checksum(arrays: Iterable[NDArray[Any]]) -> int:
    """CRC-32 of the arrays' bytes, one after the other."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).data, found)
    return found


def _ring(column: Rows, first: int, start: int, stop: int) -> NDArray[np.int32]:
    """Rows `start` to `stop` of a column that begins at `first` and goes on at its top."""
    n = len(column)
    start, stop = start + first, stop + first
    parts = [column[start:stop], column[max(start - n, 0) : max(stop - n, 0)]]
    return np.concatenate(parts).astype(np.int32, copy=False)


def _count(rows: Rows, n_rows: int, what: str) -> NDArray[np.int64]:
    """Events of each row, by a pass in parts over what may be memory-mapped.

    Raises:
        DataError: a row is not in the table.
    """
    counts = np.zeros(n_rows, np.int64)
    for start in range(0, len(rows), _CHECKED_AT_ONCE):
        part = np.asarray(rows[start : start + _CHECKED_AT_ONCE])
        low, high = int(part.min()), int(part.max())
        if low < 0 or high >= n_rows:
            came = low if low < 0 else high
            raise DataError(f"{what} row {came} is not in a table of {n_rows} rows; map ids first")
        counts += np.bincount(part, minlength=n_rows)
    return counts
