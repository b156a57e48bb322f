"""Vectors of items that nobody has touched yet, from what is known of them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.features import Bag

# Of more feature ids only the most frequent speak: the map is solved in memory.
_MAX_IDS = 4_000
_L2 = 3.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Content:
    """The features of all items, and how often each was touched.

    Attributes:
        features: float32 CSR [n_items, n]; the last column is 1 for every item.
        n_events: int64 [n_items].
        ids: feature id of each column but the last, int64 [n - 1].
    """

    features: sp.csr_matrix
    n_events: NDArray[np.int64]
    ids: NDArray[np.int64]

    @staticmethod
    def of(bag: Bag, item: NDArray[np.integer]) -> "Content":
        """Features of every item, and the items of the events."""
        rows, places = np.nonzero(bag.weights)
        ids, weights = bag.ids[rows, places], bag.weights[rows, places]
        counts = np.bincount(ids)
        spoken = np.sort(np.argsort(-counts, kind="stable")[:_MAX_IDS])
        column = np.full(len(counts), -1)
        column[spoken] = np.arange(len(spoken))
        keep = column[ids] >= 0
        cells = (weights[keep], (rows[keep], column[ids[keep]]))
        features = sp.csr_matrix(cells, shape=(len(bag), len(spoken)), dtype=np.float32)
        constant = np.ones((len(bag), 1), np.float32)
        n_events = np.bincount(item, minlength=len(bag)).astype(np.int64)
        return Content(sp.csr_matrix(sp.hstack([features, constant])), n_events, spoken)

    @property
    def is_needed(self) -> bool:
        """Whether something is known of items, and some of them were never touched."""
        is_touched = self.n_events > 0
        has_features = self.features.nnz > len(self.n_events)
        return has_features and bool(is_touched.any()) and not is_touched.all()

    def completed(self, vectors: Floats, *, weight: float = 1.0, l2: float = _L2) -> Floats:
        """The same with a vector for each untouched item: what its features lead to expect.

        A ridge regression of the touched items' vectors on their features. An item weighs the root
        of its events: equal weights would expect of every new item that hardly anyone wants it,
        which most old ones are, and weights by events that everyone does.

        Args:
            vectors: float32 [n_items, dim].
            weight: what such a vector is multiplied by.
            l2: pull of each feature's part to 0, in items of mean weight; > 0.

        Returns:
            float32 [n_items, dim]; `vectors` itself where it is not needed.
        """
        if not self.is_needed:
            return vectors
        is_touched = self.n_events > 0
        whole = vectors.copy()
        if weight == 0:
            whole[~is_touched] = 0.0
            return whole
        effects = self._effects(vectors, l2=l2)
        whole[~is_touched] = weight * (self.features[~is_touched] @ effects)
        return whole

    def effects(self, vectors: Floats, *, n_ids: int) -> Floats:
        """By how much each feature id moves the vector to expect, and what all items share.

        Of touched items' vectors, as `completed`; zeros where nothing is known.

        Args:
            vectors: float32 [n_items, dim].
            n_ids: feature ids there are.

        Returns:
            float32 [n_ids + 1, dim]; the last row is for every item.
        """
        whole = np.zeros((n_ids + 1, vectors.shape[1]), np.float32)
        if (self.n_events > 0).any():
            found = self._effects(vectors, l2=_L2)
            whole[self.ids], whole[-1] = found[:-1], found[-1]
        return whole

    def _effects(self, vectors: Floats, *, l2: float) -> NDArray[np.float64]:
        """A row for each column of `features`."""
        weighted, squares = self._normal_equations
        left = squares.copy()
        # The constant is the mean of all items; it is not pulled.
        pulled = np.arange(len(left) - 1)
        left[pulled, pulled] += l2
        return np.linalg.solve(left, weighted.T @ vectors[self.n_events > 0])

    @cached_property
    def _normal_equations(self) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
        """Features of the touched items times their weights, and their weighted products."""
        is_touched = self.n_events > 0
        share = np.sqrt(self.n_events[is_touched])
        known = self.features[is_touched].astype(np.float64)
        weighted = sp.csr_matrix(sp.diags(share / share.mean()) @ known)
        return weighted, (known.T @ weighted).toarray()
