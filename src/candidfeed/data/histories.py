"""Each user's history as one padded array: what both stages read of the past."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions


@dataclass(frozen=True)
class Histories:
    """The latest events of each user, oldest first, padded at the end.

    Attributes:
        items: int32 [n_users, length]; `n_items` is padding.
        values: float32 [n_users, length]; the event's value, NaN where it has none or is padding.
        times_s: float64 [n_users, length]; NaN where unknown or padding.
        lengths: int32 [n_users].
        n_items: the item rows; also the padding.
    """

    items: NDArray[np.int32]
    values: NDArray[np.float32]
    times_s: NDArray[np.float64]
    lengths: NDArray[np.int32]
    n_items: int

    @staticmethod
    def of(events: Interactions, *, max_length: int) -> "Histories":
        """The latest `max_length` events of each user, in the order of `chronological`."""
        events = chronological(events)
        user, counts = events.user, np.bincount(events.user, minlength=events.n_users)
        from_end = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(events))
        kept = from_end < max_length
        events, user, from_end = events.take(kept), user[kept], from_end[kept]
        lengths = np.minimum(counts, max_length).astype(np.int32)
        width = max(1, int(lengths.max(initial=1)))
        place = lengths[user] - 1 - from_end
        items = np.full((events.n_users, width), events.n_items, dtype=np.int32)
        values = np.full((events.n_users, width), np.nan, dtype=np.float32)
        times_s = np.full((events.n_users, width), np.nan)
        items[user, place] = events.item
        values[user, place] = events.value
        times_s[user, place] = events.time_s
        return Histories(items, values, times_s, lengths, events.n_items)

    def padded_to(self, width: int) -> "Histories":
        """The same with at least `width` columns, so that two parts share one compiled shape."""
        more = width - self.items.shape[1]
        if more <= 0:
            return self
        pad = ((0, 0), (0, more))
        return Histories(
            np.pad(self.items, pad, constant_values=self.n_items),
            np.pad(self.values, pad, constant_values=np.nan),
            np.pad(self.times_s, pad, constant_values=np.nan),
            self.lengths,
            self.n_items,
        )


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
