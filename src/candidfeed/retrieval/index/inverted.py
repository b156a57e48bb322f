"""Search in a part of the catalogue: the lists of like items that a query is likely to need.

An item stands in one list, among vectors near its own. A query looks into the lists whose items it
may score best: by the inner product with the list's mean, and by how far its items spread around
that. What it finds there by 4-bit codes is scored again by the vectors themselves.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from candidfeed.retrieval.index.exact import Among
from candidfeed.retrieval.index.inner_products import (
    Floats,
    Found,
    Marks,
    are_in,
    best_of,
    count,
    inner_products,
    nothing_found,
    rows_in,
    untyped_faiss,
)

# Up to here comparing every open item is as fast as looking for lists.
_FEW_ROWS = 16_384
# The codes order what is about equal wrongly: more than are asked for are scored again.
_SHORTLIST = 2
_LEAST_SPARE = 32
# Up to this many times k of those shut out may be better than what is found: the lists that hold
# the best k hold nearly as much of what comes next.
_FEW_BETTER = 0.15
# Of those shut out, some stand in the lists that were not looked into yet.
_UNMET = 1.25
# Before the n largest of many scores are looked for, the greatest of so many at a time.
_GROUP = 8
# How FAISS goes through lists: on the caller's thread, the best set apart in an array, not a heap.
_IMPLEMENTATION = 11


@dataclass(frozen=True)
class Probing:
    """How deep a query must look, found out at build time with users' vectors.

    Users differ: the best items of one stand in a few lists, those of another in hundreds. So a
    list is looked into as long as its score is a given share of that of a list near the top.

    Attributes:
        reference: which list that is, from 1; 0 where as many lists as may be are looked into.
        spreads: what is added to a list's score, of a query of length 1, float32 [n_lists].
        depths: how many of the best items are wanted, ascending, int64 [n].
        most: lists to look into at most, for each depth, int64 [n].
        shares: least share of the reference's score, for each depth, float64 [n].
        scanned: items that are looked at on average, for each depth, int64 [n].
    """

    reference: int
    spreads: Floats
    depths: NDArray[np.int64]
    most: NDArray[np.int64]
    shares: NDArray[np.float64]
    scanned: NDArray[np.int64]

    @cached_property
    def _most_by_depth(self) -> NDArray[np.float64]:
        return np.ceil(np.interp(np.arange(self.deepest + 1), self.depths, self.most))

    @cached_property
    def _share_by_depth(self) -> NDArray[np.float64]:
        return np.interp(np.arange(self.deepest + 1), self.depths, self.shares)

    @property
    def deepest(self) -> int:
        return int(self.depths[-1])

    def most_of(self, depth: int) -> int:
        """Lists to look into at most; depth is at most the deepest."""
        return int(self._most_by_depth[depth])

    def scanned_of(self, depth: int) -> int:
        return int(np.ceil(np.interp(depth, self.depths, self.scanned)))

    def worth_a_look(self, scores: Floats, depth: int) -> NDArray[np.int64]:
        """The lists to look into, of all lists with these scores."""
        most = min(len(scores), self.most_of(depth))
        least = _nth_largest(scores, most)
        if 0 < self.reference < most:
            at_reference = float(_nth_largest(scores, self.reference))
            if at_reference > 0:
                share = float(self._share_by_depth[depth])
                least = max(least, np.float32(min(share, 1.0) * at_reference))
        found = np.flatnonzero(scores >= least)
        # Best first: the sooner the best are found, the fewer of the rest are kept for a while.
        return found[np.argsort(-scores[found], kind="stable")[:most]]


@dataclass(frozen=True)
class InvertedIndex:
    """The lists in memory; the vectors may be mapped from a file.

    Attributes:
        vectors: float32 [n_items, dim], C-ordered.
        lists: FAISS' lists of 4-bit codes; its quantizer holds the mean of each list.
        list_of: the list of each row, as small integers as will do, [n_items].
    """

    vectors: Floats
    lists: faiss.IndexIVFPQFastScan
    list_of: NDArray[np.integer]
    probing: Probing

    def __post_init__(self) -> None:
        self.lists.implem = _IMPLEMENTATION

    @cached_property
    def _means(self) -> Floats:
        """Of each list, float32 [n_lists, dim]."""
        return self.lists.quantizer.reconstruct_n(0, self.lists.nlist)

    @cached_property
    def _marks(self) -> Marks:
        return Marks(len(self.vectors))

    def search(self, query: Floats, k: int, among: Among | None) -> Found:
        """About the k rows with the largest inner product with `query`, float32 [dim] and finite.

        Each score is exact, and never are there fewer than k rows where k are open.

        Args:
            among: rows that may be found; all where None.
        """
        if k <= 0:
            return nothing_found()
        found = self._probe(query, k, among) if k <= self.probing.deepest else nothing_found()
        return found if len(found) == k else self._compare(query, k, among)

    def _probe(self, query: Floats, k: int, among: Among | None) -> Found:
        """What the lists hold; fewer than k where looking there is not worth while."""
        if among is None:
            unit = _of_length_one(query)
            near = self._nearness(unit)
            rows, _ = self._look_into(unit, near, self._nearest(near, k), _n_likely(k))
            return self._rescored(query, k, rows)
        n_left = len(self.vectors) - among.n_shut_out
        if among.allowed is None and n_left > _FEW_ROWS:
            return self._probe_rest(query, k, among)
        return self._probe_part(query, k, among)

    def _probe_rest(self, query: Floats, k: int, among: Among) -> Found:
        """Where nearly all rows are open: deeper only where many of the best are not."""
        unit = _of_length_one(query)
        near = self._nearness(unit)
        depth, n_expected = k, 0
        while depth <= self.probing.deepest:
            lists = self._nearest(near, depth)
            rows, scores = self._look_into(unit, near, lists, _n_likely(k + n_expected))
            are_open = self._are_open(rows, among)
            n_better = _n_better(scores, are_open, k)
            if n_better <= n_expected + _FEW_BETTER * k:
                return self._rescored(query, k, rows[are_open])
            depth, n_expected = k + int(_UNMET * n_better), n_better
        return nothing_found()

    def _probe_part(self, query: Floats, k: int, among: Among) -> Found:
        """Where it is not known before whether few or many are open."""
        if count(among.open) <= _FEW_ROWS:
            return nothing_found()
        unit = _of_length_one(query)
        # Twice the average, for what is allowed may lie far from the user's best.
        near = self._nearness(unit)
        lists = self._nearest_open(near, 2 * self.probing.scanned_of(k), among)
        selector = untyped_faiss.IDSelectorBitmap(among.open)
        rows, _ = self._look_into(unit, near, lists, _n_likely(k), selector)
        return self._rescored(query, k, rows)

    def _are_open(self, rows: NDArray[np.int64], among: Among) -> NDArray[np.bool_]:
        """Which of these rows are neither denied nor gone; what is allowed does not count."""
        are_open = ~self._marks.among(rows, among.denied)
        return are_open & are_in(among.standing, rows) if among.n_gone else are_open

    def _nearness(self, unit: Floats) -> Floats:
        """Inner product of each list's mean with the query, float32 [n_lists]."""
        return inner_products(self._means, unit)

    def _nearest(self, near: Floats, depth: int) -> NDArray[np.int64]:
        """The lists to look into for this many of the best rows."""
        return self.probing.worth_a_look(near + self.probing.spreads, depth)

    def _nearest_open(self, near: Floats, n_rows: int, among: Among) -> NDArray[np.int64]:
        """Lists with open rows, best first, as many as it takes to look at `n_rows` of those."""
        open_rows = rows_in(among.open, len(self.vectors))
        n_open = np.bincount(self.list_of[open_rows], minlength=self.lists.nlist)
        order = np.argsort(-(near + self.probing.spreads), kind="stable")
        order = order[n_open[order] > 0]
        enough = np.searchsorted(np.cumsum(n_open[order]), n_rows) + 1
        return np.ascontiguousarray(order[:enough])

    def _look_into(
        self,
        unit: Floats,
        near: Floats,
        lists: NDArray[np.int64],
        n: int,
        selector: Any = None,
    ) -> tuple[NDArray[np.int64], Floats]:
        """The n rows of these lists that score best by their codes, and these scores, falling.

        Fewer where the lists hold fewer that the selector lets in; int64 and float32.
        """
        params = untyped_faiss.SearchParametersIVF(sel=selector, nprobe=len(lists))
        of_means, at = near[lists], untyped_faiss.swig_ptr
        rows, scores = np.empty(n, np.int64), np.empty(n, np.float32)
        untyped_faiss.IndexIVFPQFastScan.search_preassigned_c(
            self.lists, 1, at(unit), n, at(lists), at(of_means), at(scores), at(rows), False, params
        )
        n_found = np.count_nonzero(rows >= 0)
        return rows[:n_found], scores[:n_found]

    def _rescored(self, query: Floats, k: int, rows: NDArray[np.int64]) -> Found:
        return best_of(rows, inner_products(self.vectors, query, rows), k)

    def _compare(self, query: Floats, k: int, among: Among | None) -> Found:
        if among is None:
            return best_of(np.arange(len(self.vectors)), inner_products(self.vectors, query), k)
        return self._rescored(query, k, rows_in(among.open, len(self.vectors)))


def _n_likely(k: int) -> int:
    """How many rows are scored again for the k best."""
    return max(_SHORTLIST * k, k + _LEAST_SPARE)


def _n_better(scores: Floats, are_open: NDArray[np.bool_], k: int) -> int:
    """How many rows that are not open score as high as the k best open ones."""
    open_scores, others = scores[are_open], scores[~are_open]
    if len(open_scores) <= k:
        return len(others)
    return int(np.count_nonzero(others >= _nth_largest(open_scores, k)))


def _nth_largest(scores: Floats, n: int) -> np.float32:
    """Of at least n scores."""
    n_groups = len(scores) // _GROUP
    if n <= n_groups // 2:
        # No score is larger than the greatest of its group: so no more than these can be.
        greatest = scores[: n_groups * _GROUP].reshape(_GROUP, n_groups).max(axis=0)
        scores = scores[scores >= _at_place(greatest, n_groups - n)]
    return _at_place(scores, len(scores) - n)


def _at_place(scores: Floats, place: int) -> np.float32:
    """What would stand there in ascending order."""
    # Of two places: for a single one NumPy (2.4) takes a way that is three times as slow.
    return np.partition(scores, [place, len(scores) - 1])[place]


def _of_length_one(query: Floats) -> Floats:
    """The same direction, float32 [dim]; zeros stay zeros."""
    # In doubles, where the square of no float32 is too large or too small.
    doubles = query.astype(np.float64)
    length = np.sqrt(doubles @ doubles)
    return (doubles / length if length > 0 else doubles).astype(np.float32)
