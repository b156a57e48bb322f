"""The events of all users as one stream, cut into batches of one shape."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.retrieval.sparse.event_batches import SeededBatches, checksum
from candidfeed.retrieval.sparse.sampled_softmax import log_expected_draws


@dataclass(frozen=True)
class StreamSampling:
    """What a step reads and what it leaves out.

    Attributes:
        batch_size: events a step.
        n_uniform: negatives drawn evenly from the items of the log.
        n_by_events: further negatives: the items of events drawn evenly from the log.
        hard_share: share of these that is drawn from what was mined instead, once something was.
        drop_ids: share of the items whose id is hidden, so that features learn to stand alone.
        drop_events: share of the events that are left out of histories.

    Raises:
        ValueError: a share is not between 0 and 1.
    """

    batch_size: int = 4096
    n_uniform: int = 512
    n_by_events: int = 512
    hard_share: float = 0.0
    drop_ids: float = 0.2
    drop_events: float = 0.1

    def __post_init__(self) -> None:
        for name in ("hard_share", "drop_ids", "drop_events"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"sampling: {name} is a share from 0 to 1, not {share}")


class StreamBatches(SeededBatches):
    """Users one after the other in random order, each with all of their events, oldest first.

    A batch is the next `batch_size` events of that stream, the `n_before` events before them, and
    negatives that all of them share. The last batch is filled up. From `mix_in` on, batches
    depend on what was given to it too.

    An element is a tuple of one dict, where r = n_before + batch_size and m = r + negatives:

    - `item_row` int32 [m], the events' and then the negatives; `item_id` likewise, -1 where the id
      is hidden; `item_ids` int32 and `item_weights` float32 [m, ids], the items' features;
    - `user` int32 [r], -1 for none; `is_read` bool [r], false for what is left out of histories;
      `user_ids` and `user_weights` [batch_size, ids], the features of the events' users;
    - `weight` float32 [batch_size], 1 for an event that is there, 0 for what fills the last batch;
    - `negative_logq` float32 [negatives].

    Args:
        events: by user, oldest first (`chronological`).
        n_before: how many events before an event it may be predicted from; divides the batch size.

    Raises:
        DataError: there is no event.
    """

    def __init__(
        self,
        events: Interactions,
        *,
        user_bag: Bag,
        item_bag: Bag,
        sampling: StreamSampling,
        n_before: int,
        seed: int,
    ) -> None:
        super().__init__(seed)
        if not len(events):
            raise DataError("training needs at least one event, and there is none")
        if sampling.batch_size % n_before:
            raise ValueError(f"{sampling.batch_size} events are no multiple of {n_before}")
        self.events, self.user_bag, self.item_bag = events, user_bag, item_bag
        self.sampling, self.n_before = sampling, n_before
        counts = np.bincount(events.item, minlength=events.n_items)
        # What nobody touched may be new: it is no evidence that nobody wants it.
        self.touched = np.flatnonzero(counts).astype(np.int32)
        self.share = counts[self.touched] / len(events)
        self.place = np.cumsum(counts > 0) - 1
        self.n_events = np.bincount(events.user, minlength=events.n_users)
        self.starts = np.cumsum(self.n_events) - self.n_events
        self.mined = np.empty(0, np.int32)
        self._n_even, self._n_by_events, self._n_mined = sampling.n_uniform, sampling.n_by_events, 0
        self._other_share = self.share
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._checksum: int | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.events) // self.sampling.batch_size)

    def mix_in(self, mined: NDArray[np.int32]) -> None:
        """From now on draw the `hard_share` of negatives evenly from these; nothing where empty."""
        if not len(mined):
            return
        of, share = self.sampling, self.sampling.hard_share
        self.mined = mined
        self._n_even, self._n_by_events = (
            round(n * (1 - share)) for n in (of.n_uniform, of.n_by_events)
        )
        self._n_mined = of.n_uniform + of.n_by_events - self._n_even - self._n_by_events
        mined_share = np.bincount(self.place[mined], minlength=len(self.share)) / len(mined)
        draws = self._n_by_events * self.share + self._n_mined * mined_share
        self._other_share = draws / max(1, self._n_by_events + self._n_mined)

    def __getitem__(self, index: int) -> tuple[dict[str, Any]]:
        """Batch `index` of the present epoch."""
        rng, size = self.rng(1, index), self.sampling.batch_size
        place = np.arange(-self.n_before, size) + index * size
        is_there = (place >= 0) & (place < len(self.events))
        at = self._stream()[np.clip(place, 0, len(self.events) - 1)]
        user = self.events.user[at]
        negatives = self._negatives(rng)
        item_row = np.concatenate([self.events.item[at], negatives])
        is_hidden = rng.random(len(item_row)) < self.sampling.drop_ids
        batch = {
            "item_row": item_row,
            "item_id": np.where(is_hidden, np.int32(-1), item_row),
            "item_ids": self.item_bag.ids[item_row],
            "item_weights": self.item_bag.weights[item_row],
            "user": np.where(is_there, user, np.int32(-1)),
            "is_read": is_there & (rng.random(len(at)) >= self.sampling.drop_events),
            "user_ids": self.user_bag.ids[user[self.n_before :]],
            "user_weights": self.user_bag.weights[user[self.n_before :]],
            "weight": is_there[self.n_before :].astype(np.float32),
            "negative_logq": self._logq(negatives),
        }
        return (batch,)

    def fingerprint(self) -> dict[str, float]:
        """Of the whole log and of all features."""
        if self._checksum is None:
            bags = [one for bag in (self.user_bag, self.item_bag) for one in (bag.ids, bag.weights)]
            self._checksum = checksum([self.events.user, self.events.item, *bags])
        return {
            **asdict(self.sampling),
            "events": len(self.events),
            "n_before": self.n_before,
            "seed": self.seed,
            "checksum": self._checksum,
        }

    def _negatives(self, rng: np.random.Generator) -> NDArray[np.int32]:
        evenly = self.touched[rng.integers(len(self.touched), size=self._n_even)]
        drawn = rng.integers(len(self.events), size=self._n_by_events)
        parts = [evenly, self.events.item[drawn]]
        if self._n_mined:
            parts.append(self.mined[rng.integers(len(self.mined), size=self._n_mined)])
        return np.concatenate(parts)

    def _logq(self, items: NDArray[np.int32]) -> NDArray[np.float32]:
        return log_expected_draws(
            self.place[items],
            self._other_share,
            n_uniform=self._n_even,
            n_in_batch=self._n_by_events + self._n_mined,
        )

    def _stream(self) -> NDArray[np.int64]:
        """Which event stands at each place of the epoch's stream, int64 [n]."""
        if self._order is None or self._order[0] != self.epoch:
            users = self.rng(2).permutation(np.flatnonzero(self.n_events))
            counts = self.n_events[users]
            first = self.starts[users] - (np.cumsum(counts) - counts)
            self._order = (self.epoch, np.arange(len(self.events)) + np.repeat(first, counts))
        return self._order[1]
