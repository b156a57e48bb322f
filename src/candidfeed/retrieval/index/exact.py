"""Exact inner-product search: every item compared with the query."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candidfeed.retrieval.index.inner_products import (
    Bits,
    Floats,
    Found,
    best_of,
    bits_of,
    inner_products,
    rows_in,
    without,
)


@dataclass(frozen=True)
class Among:
    """Which rows one search may find.

    Attributes:
        standing: rows of the build that were not removed since.
        denied: rows that the request shuts out, int [n], each known, duplicates possible.
        allowed: the only rows that it lets in, likewise; all where None.
        n_gone: how many were removed since the build.
    """

    standing: Bits
    denied: NDArray[np.integer]
    allowed: NDArray[np.integer] | None
    n_gone: int

    @property
    def n_shut_out(self) -> int:
        """At most this many are shut out by name."""
        return len(self.denied) + self.n_gone

    @cached_property
    def open(self) -> Bits:
        """The set of rows that may be found."""
        if self.allowed is None:
            return without(self.standing, self.denied)
        allowed = bits_of(self.allowed, 8 * len(self.standing))
        return without(allowed & self.standing, self.denied)


@dataclass(frozen=True)
class ExactIndex:
    """All item vectors, each compared with the query; below some 100,000 items nothing is faster.

    Attributes:
        vectors: float32 [n_items, dim], finite and C-ordered.
    """

    vectors: Floats

    def search(self, query: Floats, k: int, among: Among | None) -> Found:
        """The k rows with the largest inner product with `query`, float32 [dim] and finite.

        Args:
            among: rows that may be found; all where None.
        """
        n_items = len(self.vectors)
        scores = inner_products(self.vectors, query)
        if among is None:
            return best_of(np.arange(n_items), scores, k)
        rows = rows_in(among.open, n_items)
        return best_of(rows, scores[rows], k)
