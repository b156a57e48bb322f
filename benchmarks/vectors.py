"""A model that is two tables of vectors: what peers hand back, and what is drawn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Vectors:
    """Scores are a user's vector times an item's, float32 [n_users, dim] and [n_items, dim]."""

    user: NDArray[np.float32]
    item: NDArray[np.float32]

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [len(users), n_items]."""
        return self.user[users] @ self.item.T
