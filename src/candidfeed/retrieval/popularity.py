"""What most people touched, ever or of late: the order that needs to know nothing of the user."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError


@dataclass(frozen=True)
class Popular:
    """Items by how many users touched them; someone who comes back to an item counts once.

    Attributes:
        item_scores: users per item, float32 [n_items]; exact below 16.7 million users.
    """

    item_scores: NDArray[np.float32]

    @classmethod
    def fit(cls, train: Interactions) -> "Popular":
        return cls(item_scores=_users_per_item(train).astype(np.float32))

    @property
    def settings(self) -> dict[str, float]:
        return {}

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """The same row for every user, float32 [len(users), n_items]."""
        return np.tile(self.item_scores, (len(users), 1))


@dataclass(frozen=True)
class PopularRecent:
    """Items by how many users touched them in the last window of train.

    Equal ones, so also all those that nobody touched in the window, stand in the order of
    `Popular`.

    Attributes:
        item_scores: the place in that order, higher is better, equal where both counts are equal;
            float32 [n_items].
        window_share: the window's length, as a share of the time from train's first event to its
            last.
    """

    item_scores: NDArray[np.float32]
    window_share: float

    @classmethod
    def fit(cls, train: Interactions, *, window_share: float) -> "PopularRecent":
        """
        Raises:
            DataError: train is empty or lacks times.
            ValueError: window_share is not in (0, 1].
        """
        if not 0 < window_share <= 1:
            raise ValueError(f"window_share must be in (0, 1], not {window_share}")
        if not len(train) or np.isnan(train.time_s).any():
            raise DataError("popular-recent needs the time of each event, and the log has none")
        first_s, last_s = train.time_s.min(), train.time_s.max()
        recent = train.time_s >= last_s - window_share * (last_s - first_s)
        ever = _users_per_item(train)
        order_key = _users_per_item(train.take(recent)) * (ever.max() + 1) + ever
        _, place = np.unique(order_key, return_inverse=True)
        return cls(item_scores=place.astype(np.float32), window_share=window_share)

    @property
    def settings(self) -> dict[str, float]:
        return {"window_share": self.window_share}

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """The same row for every user, float32 [len(users), n_items]."""
        return np.tile(self.item_scores, (len(users), 1))


def popular_for_strangers(
    scores: NDArray[np.float32], touched: sp.csr_matrix, popular: Popular
) -> NDArray[np.float32]:
    """Gives users of whom nothing is known the popular order, in place.

    Args:
        scores: float32 [batch, n_items].
        touched: what each of these users is known to have touched, [batch, n_items].
        popular: fitted on the same train.
    """
    scores[np.diff(touched.indptr) == 0] = popular.item_scores
    return scores


def _users_per_item(events: Interactions) -> NDArray[np.int64]:
    return np.bincount(events.matrix.indices, minlength=events.n_items).astype(np.int64)
