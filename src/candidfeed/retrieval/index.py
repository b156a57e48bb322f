"""Exact inner-product search: from one user vector to the best items."""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True)
class Found:
    """The best items of one search, best first, equal scores by lower row.

    Attributes:
        rows: int32 [n], each at most once.
        scores: inner products, float32 [n].
    """

    rows: NDArray[np.int32]
    scores: Floats


@dataclass(frozen=True)
class ExactIndex:
    """All item vectors, each compared with the query; below some 100,000 items nothing is faster.

    One query runs on one thread, and an item's score does not depend on the other items.
    """

    _flat: faiss.IndexFlatIP

    @staticmethod
    def build(vectors: Floats) -> "ExactIndex":
        """Index the rows of float32 [n_items, dim].

        Raises:
            ValueError: a vector is not finite; it could never be found.
        """
        if not np.isfinite(vectors).all():
            bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            raise ValueError(f"index: the vectors of {len(bad)} items are not finite")
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(np.ascontiguousarray(vectors, np.float32))
        return ExactIndex(flat)

    def __len__(self) -> int:
        return self._flat.ntotal

    def search(self, query: Floats, k: int, *, deny: NDArray[np.integer] = _NOTHING) -> Found:
        """The k items with the largest inner product with `query`, float32 [dim].

        Args:
            deny: rows that may not be found; where fewer than k others are left, fewer come.

        Raises:
            ValueError: the query is not finite.
        """
        if not np.isfinite(query).all():
            raise ValueError("index: the query is not finite")
        denied = np.unique(deny).astype(np.int64)
        n_open = len(self) - len(denied)
        k = min(k, n_open)
        if k <= 0:
            return Found(_NOTHING, np.empty(0, np.float32))
        # Of equal scores FAISS returns whichever it met first: ask on until the last one differs.
        n_asked = min(k + 1, n_open)
        scores, rows = self._search(query, n_asked, denied)
        while n_asked < n_open and scores[-1] == scores[k - 1]:
            n_asked = min(2 * n_asked, n_open)
            scores, rows = self._search(query, n_asked, denied)
        best = np.lexsort((rows, -scores))[:k]
        return Found(rows[best].astype(np.int32), scores[best])

    def _search(
        self, query: Floats, k: int, denied: NDArray[np.int64]
    ) -> tuple[Floats, NDArray[np.int64]]:
        params = faiss.SearchParameters()
        # The selector must live as long as the search.
        allowed = faiss.IDSelectorNot(faiss.IDSelectorBatch(denied))
        params.sel = allowed if len(denied) else None
        scores, rows = self._flat.search(query[None].astype(np.float32), k, params=params)
        return scores[0], rows[0]
