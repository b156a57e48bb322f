"""Positive events as aligned arrays of dense rows: what models are fitted on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interactions:
    """Aligned columns, one entry per event, in the order of the log.

    Attributes:
        user: row of the user, int32 [n].
        item: row of the item, int32 [n].
        value: the event's value (a rating, say), float32 [n]; NaN where it carries none.
        time_s: seconds since 1970 UTC, float64 [n]; NaN where the log has no times.
        n_users: rows of the user vocabulary.
        n_items: rows of the item vocabulary.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    value: NDArray[np.float32]
    time_s: NDArray[np.float64]
    n_users: int
    n_items: int

    def __post_init__(self) -> None:
        sizes = {len(self.user), len(self.item), len(self.value), len(self.time_s)}
        if len(sizes) != 1:
            raise ValueError(f"interactions: columns of different lengths {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Interactions":
        """The events at these positions (or where the mask is true), in that order."""
        return Interactions(
            user=self.user[rows],
            item=self.item[rows],
            value=self.value[rows],
            time_s=self.time_s[rows],
            n_users=self.n_users,
            n_items=self.n_items,
        )

    def concat(self, later: "Interactions") -> "Interactions":
        """These events, then the later ones.

        Raises:
            ValueError: the two count rows of different vocabularies.
        """
        if (self.n_users, self.n_items) != (later.n_users, later.n_items):
            raise ValueError(
                f"interactions: {self.n_users} users and {self.n_items} items can't be joined with "
                f"{later.n_users} and {later.n_items}; use the same vocabularies"
            )
        return Interactions(
            user=np.concatenate([self.user, later.user]),
            item=np.concatenate([self.item, later.item]),
            value=np.concatenate([self.value, later.value]),
            time_s=np.concatenate([self.time_s, later.time_s]),
            n_users=self.n_users,
            n_items=self.n_items,
        )

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """Who touched what, once or often: ones in float32 CSR [n_users, n_items], rows sorted."""
        ones = np.ones(len(self), dtype=np.float32)
        shape = (self.n_users, self.n_items)
        matrix = sp.csr_matrix((ones, (self.user, self.item)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix
