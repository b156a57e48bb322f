"""Each user's history: what both stages read of the past."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions

_Number = TypeVar("_Number", bound=np.number)


@dataclass(frozen=True)
class PaddedHistories:
    """The histories of a batch of users as one array, oldest event first, padded at the end.

    Attributes:
        items: int32 [b, width]; `n_items` is padding.
        values: float32 [b, width]; the event's value, NaN where it has none or is padding.
        times_s: float64 [b, width]; NaN where unknown or padding.
        lengths: int32 [b].
        n_items: the item rows; also the padding.
    """

    items: NDArray[np.int32]
    values: NDArray[np.float32]
    times_s: NDArray[np.float64]
    lengths: NDArray[np.int32]
    n_items: int


@dataclass(frozen=True)
class Histories:
    """The latest events of each user, oldest first, one user after the other.

    Attributes:
        starts: where each user's events begin, int64 [n_users + 1]; the last is their number.
        item: int32 [n].
        value: float32 [n]; NaN where the event has none.
        time_s: float64 [n]; NaN where unknown.
        n_items: the item rows; also what is padded with.
    """

    starts: NDArray[np.int64]
    item: NDArray[np.int32]
    value: NDArray[np.float32]
    time_s: NDArray[np.float64]
    n_items: int

    @staticmethod
    def of(events: Interactions, *, max_length: int) -> "Histories":
        """The latest `max_length` events of each user, in the order of `chronological`."""
        events = chronological(events)
        counts = np.bincount(events.user, minlength=events.n_users)
        from_end = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(events))
        events = events.take(from_end < max_length)
        ends = np.cumsum(np.minimum(counts, max_length))
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        return Histories(starts, events.item, events.value, events.time_s, events.n_items)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Events of each user, int32 [n_users]."""
        return np.diff(self.starts).astype(np.int32)

    @property
    def longest(self) -> int:
        """Events of the user who has most, at least 1."""
        return max(1, int(np.diff(self.starts).max(initial=1)))

    def padded(self, users: NDArray[np.integer], *, width: int | None = None) -> PaddedHistories:
        """The histories of these users.

        Args:
            width: events of a row; the longest of all users' histories where None. Of a longer
                history the latest events are taken.
        """
        width = self.longest if width is None else width
        ends = self.starts[1:][users]
        lengths = np.minimum(ends - self.starts[:-1][users], width)
        place = np.arange(width)
        real = place < lengths[:, None]
        at = (ends - lengths)[:, None] + place
        return PaddedHistories(
            items=_filled(self.item, at, real, self.n_items),
            values=_filled(self.value, at, real, np.nan),
            times_s=_filled(self.time_s, at, real, np.nan),
            lengths=lengths.astype(np.int32),
            n_items=self.n_items,
        )


def _filled(
    column: NDArray[_Number], at: NDArray[np.integer], real: NDArray[np.bool_], padding: float
) -> NDArray[_Number]:
    """The column at these places where they are real, else the padding."""
    found = np.full(real.shape, padding, column.dtype)
    found[real] = column[at[real]]
    return found


def chronological(events: Interactions) -> Interactions:
    """The same events by user, oldest first; a repeated item counts once, its last time.

    Events of one time keep the order of the log; so do those without a time, which count as
    older than all others.
    """
    times = np.where(np.isnan(events.time_s), -np.inf, events.time_s)
    order = np.lexsort((times, events.user))
    return events.take(order[_last_of_each_pair(events, order)])


def _last_of_each_pair(events: Interactions, order: NDArray[np.integer]) -> NDArray[np.bool_]:
    pair = events.user[order].astype(np.int64) * events.n_items + events.item[order]
    _, first_from_end = np.unique(pair[::-1], return_index=True)
    last = np.zeros(len(order), dtype=bool)
    last[len(order) - 1 - first_from_end] = True
    return last
