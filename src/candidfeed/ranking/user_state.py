"""What the ranker knows of users when they are asked for."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories, PaddedHistories
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.rating_scale import SHRINK_EVENTS, Floats, RatingScale

MAX_HISTORY = 512


@dataclass(frozen=True)
class UserState:
    """What the ranker knows of a batch of users when they are asked for.

    Attributes:
        row: int32 [b]; the number of users stands for an unknown one.
        bag: features of these users.
        history: int32 [b, h], padded with n_items.
        tone: rating minus the user's mean, float32 [b, h]; 0 where there is none.
        times_s: when each event of the history was, float64 [b, h]; NaN where unknown or padding.
        mean_rating: shrunk to the mean of all, float32 [b].
        now_s: float64 [b], NaN if unknown.
    """

    row: NDArray[np.int32]
    bag: Bag
    history: NDArray[np.int32]
    tone: Floats
    times_s: NDArray[np.float64]
    mean_rating: Floats
    now_s: NDArray[np.float64]

    def take(self, places: NDArray[np.integer]) -> "UserState":
        return UserState(
            row=self.row[places],
            bag=Bag(self.bag.ids[places], self.bag.weights[places]),
            history=self.history[places],
            tone=self.tone[places],
            times_s=self.times_s[places],
            mean_rating=self.mean_rating[places],
            now_s=self.now_s[places],
        )

    @staticmethod
    def of(
        past: PaddedHistories,
        bag: Bag,
        row: NDArray[np.int32],
        scale: RatingScale,
        *,
        now_s: NDArray[np.float64] | None = None,
    ) -> "UserState":
        """State of the users whose past and features these are.

        Args:
            now_s: as in the attributes; the time of their last event where None.
        """
        lengths = past.lengths
        if scale.like_at is None:
            mean = np.full(len(lengths), scale.mean, np.float32)
            tone = np.zeros(past.values.shape, np.float32)
        else:
            rated = np.isfinite(past.values)
            deviation = sum_of_rows(rated, past.values.astype(np.float64) - scale.mean)
            mean = scale.mean + deviation / (rated.sum(axis=1) + SHRINK_EVENTS)
            tone = np.where(rated, past.values - mean[:, None], 0.0)
        if now_s is None:
            last = past.times_s[np.arange(len(lengths)), np.maximum(lengths - 1, 0)]
            now_s = np.where(lengths > 0, last, np.nan)
        return UserState(
            row=row,
            bag=bag,
            history=past.items,
            tone=tone.astype(np.float32, copy=False),
            times_s=past.times_s,
            mean_rating=mean.astype(np.float32, copy=False),
            now_s=now_s,
        )


@dataclass(frozen=True)
class UserStates:
    """The state of every user row, made when it is asked for.

    Attributes:
        histories: the latest events of every user, at most MAX_HISTORY.
        bag: features of every user.
    """

    histories: Histories
    bag: Bag
    scale: RatingScale

    @staticmethod
    def of(known: Interactions, bag: Bag, scale: RatingScale) -> "UserStates":
        """With `known` as the users' past."""
        return UserStates(Histories.of(known, max_length=MAX_HISTORY), bag, scale)

    def __len__(self) -> int:
        return len(self.bag)

    @cached_property
    def width(self) -> int:
        """Events of a history in every batch."""
        return self.histories.longest

    def take(self, rows: NDArray[np.integer]) -> UserState:
        """The states of these user rows."""
        past = self.histories.padded(rows, width=self.width)
        bag = Bag(self.bag.ids[rows], self.bag.weights[rows])
        return UserState.of(past, bag, rows.astype(np.int32), self.scale)


def sum_of_rows(mask: NDArray[np.bool_], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum of the marked values of each row, float64 [b].

    One after the other: in NumPy's own sums the padding would move the last bit.
    """
    sums = np.bincount(np.nonzero(mask)[0], values[mask], minlength=len(mask))
    return sums.astype(np.float64)
