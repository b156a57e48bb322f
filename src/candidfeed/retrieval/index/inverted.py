"""Search in a part of the catalogue: the lists of like items that a query is likely to need.

An item stands in one list, with vectors of like norm and direction. A query looks into the lists
whose items it may score best: by the inner product with the list's mean, and by how far its items
spread around that. What it finds there by 8-bit codes is scored again by the vectors themselves.
"""

import math
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
_SHORTLIST = 1.4
_LEAST_SPARE = 32
# Where rows are shut out, this many times k more are; as long as so many are left, that is enough.
_SPARE = 0.1
_ENOUGH = 1.1
# Up to this many times k of those shut out may be better than what is found: the lists that hold
# the best k hold nearly as much of what comes next.
_FEW_BETTER = 0.3
# Of those shut out, some stand in the lists that were not looked into yet.
_UNMET = 1.25
# FAISS' least score to report, and how many it gathers at once: that many stay in the cache.
_LEAST_SCORE = -float(np.finfo(np.float32).max)
_RESULTS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Probing:
    """How deep a query must look, found out at build time with users' vectors.

    Users differ: the best items of one stand in a few lists, those of another in hundreds. So a
    list is looked into as long as its score is a given share of that of a list near the top.

    Attributes:
        reference: which list that is, from 1; 0 where as many lists as may be are looked into.
        spreads: what is added to a list's score, times the query's norm, float32 [n_lists].
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

    def n_needed(self, scores: Floats, depth: int) -> int:
        """How many lists to look into, of lists with these falling scores."""
        most = min(len(scores), self.most_of(depth))
        if self.reference == 0 or self.reference >= most:
            return most
        at_reference = float(scores[self.reference - 1])
        if at_reference <= 0:
            return most
        least = self._share_by_depth[depth] * at_reference
        return max(self.reference, int(np.count_nonzero(scores[:most] >= least)))


@dataclass(frozen=True)
class InvertedIndex:
    """The lists in memory, or mapped from a file.

    Attributes:
        vectors: float32 [n_items, dim], C-ordered.
        lists: FAISS' lists of 8-bit codes; its quantizer holds the mean of each list.
        list_of: the list of each row, as small integers as will do, [n_items].
    """

    vectors: Floats
    lists: faiss.IndexIVFScalarQuantizer
    list_of: NDArray[np.integer]
    probing: Probing

    @cached_property
    def _list_table(self) -> Floats:
        """Mean and spread of each list, float32 [n_lists, dim + 1]."""
        means = self.lists.quantizer.reconstruct_n(0, self.lists.nlist)
        return np.ascontiguousarray(np.hstack([means, self.probing.spreads[:, None]]))

    @cached_property
    def _nearest_lists(self) -> faiss.IndexFlatIP:
        flat = faiss.IndexFlatIP(self._list_table.shape[1])
        flat.add(self._list_table)
        return flat

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
            rows, scores = self._look_into(query, self._nearest(query, k))
            return self._rescored(query, k, _best_rows(rows, scores, _n_likely(k)))
        n_left = len(self.vectors) - among.n_shut_out
        if among.allowed is None and n_left > _FEW_ROWS:
            return self._probe_rest(query, k, among)
        return self._probe_part(query, k, among)

    def _probe_rest(self, query: Floats, k: int, among: Among) -> Found:
        """Where nearly all rows are open. Mostly a longer shortlist makes up for the others."""
        rows, scores = self._look_into(query, self._nearest(query, k))
        n_spare = min(among.n_shut_out, int(_SPARE * k))
        likely = _best_rows(rows, scores, _n_likely(k) + n_spare)
        likely = likely[self._are_open(likely, among)]
        if len(likely) < _ENOUGH * k:
            likely = self._likely_deeper(query, k, among, rows, scores)
        return self._rescored(query, k, likely)

    def _likely_deeper(
        self, query: Floats, k: int, among: Among, rows: NDArray[np.int64], scores: Floats
    ) -> NDArray[np.int64]:
        """The shortlist where many of these rows are shut out; an empty one if they are too many.

        Args:
            rows, scores: what the lists for the best k hold.
        """
        n_expected = 0
        are_open = self._are_open(rows, among)
        while (n_better := _n_better(scores, are_open, k)) > n_expected + _FEW_BETTER * k:
            n_expected = n_better
            depth = k + int(_UNMET * n_better)
            if depth > self.probing.deepest:
                return rows[:0]
            rows, scores = self._look_into(query, self._nearest(query, depth))
            are_open = self._are_open(rows, among)
        n_likely = _n_likely(k + n_better) - n_better
        return _best_rows(rows[are_open], scores[are_open], n_likely)

    def _probe_part(self, query: Floats, k: int, among: Among) -> Found:
        """Where it is not known before whether few or many are open."""
        if count(among.open) <= _FEW_ROWS:
            return nothing_found()
        # Twice the average, for what is allowed may lie far from the user's best.
        lists = self._nearest_open(query, 2 * self.probing.scanned_of(k), among)
        selector = untyped_faiss.IDSelectorBitmap(among.open)
        rows, scores = self._look_into(query, lists, selector)
        return self._rescored(query, k, _best_rows(rows, scores, _n_likely(k)))

    def _are_open(self, rows: NDArray[np.int64], among: Among) -> NDArray[np.bool_]:
        """Which of these rows are neither denied nor gone; what is allowed does not count."""
        are_open = ~self._marks.among(rows, among.denied)
        return are_open & are_in(among.standing, rows) if among.n_gone else are_open

    def _nearest(self, query: Floats, depth: int) -> NDArray[np.int64]:
        """The lists to look into for this many of the best rows, best first."""
        n = self.probing.most_of(depth)
        scores, lists = self._nearest_lists.search(_with_norm(query)[None], n)
        return lists[0, : self.probing.n_needed(scores[0], depth)]

    def _nearest_open(self, query: Floats, n_rows: int, among: Among) -> NDArray[np.int64]:
        """Lists with open rows, best first, as many as it takes to look at `n_rows` of those."""
        open_rows = rows_in(among.open, len(self.vectors))
        n_open = np.bincount(self.list_of[open_rows], minlength=self.lists.nlist)
        scores = inner_products(self._list_table, _with_norm(query))
        order = np.argsort(-scores, kind="stable")
        order = order[n_open[order] > 0]
        enough = np.searchsorted(np.cumsum(n_open[order]), n_rows) + 1
        return np.ascontiguousarray(order[:enough])

    def _look_into(
        self, query: Floats, lists: NDArray[np.int64], selector: Any = None
    ) -> tuple[NDArray[np.int64], Floats]:
        """All rows of these lists that the selector lets in, and what their codes score.

        Returns:
            int64 [n] and float32 [n], a list after the other.
        """
        params = untyped_faiss.SearchParametersIVF(sel=selector, nprobe=len(lists))
        met = untyped_faiss.RangeSearchResult(1)
        met.buffer_size = _RESULTS_AT_ONCE
        # A list's own score is no part of an item's: the codes hold whole vectors.
        nothing = np.zeros(len(lists), np.float32)
        point, read = untyped_faiss.swig_ptr, untyped_faiss.rev_swig_ptr
        # All scores, to part them here, take half as long as FAISS' heap of the best.
        untyped_faiss.IndexIVF.range_search_preassigned_c(
            self.lists, 1, point(query), _LEAST_SCORE, point(lists), point(nothing), met, False,
            params,
        )  # fmt: skip
        n = int(read(met.lims, 2)[1])
        return read(met.labels, n).copy(), read(met.distances, n).copy()

    def _rescored(self, query: Floats, k: int, rows: NDArray[np.int64]) -> Found:
        return best_of(rows, inner_products(self.vectors, query, rows), k)

    def _compare(self, query: Floats, k: int, among: Among | None) -> Found:
        if among is None:
            return best_of(np.arange(len(self.vectors)), inner_products(self.vectors, query), k)
        return self._rescored(query, k, rows_in(among.open, len(self.vectors)))


def _n_likely(k: int) -> int:
    """How many rows are scored again for the k best."""
    return max(int(_SHORTLIST * k), k + _LEAST_SPARE)


def _best_rows(rows: NDArray[np.int64], scores: Floats, n: int) -> NDArray[np.int64]:
    """The rows of the n largest scores, and of those that tie with the last, in any order."""
    return rows[scores >= _nth_largest(scores, n)] if len(rows) > n else rows


def _n_better(scores: Floats, are_open: NDArray[np.bool_], k: int) -> int:
    """How many rows that are not open score as high as the k best open ones."""
    open_scores, others = scores[are_open], scores[~are_open]
    if len(open_scores) <= k:
        return len(others)
    return int(np.count_nonzero(others >= _nth_largest(open_scores, k)))


def _nth_largest(scores: Floats, n: int) -> np.float32:
    return np.partition(scores, len(scores) - n)[len(scores) - n]


def _with_norm(query: Floats) -> Floats:
    """What a list's mean and spread are multiplied with, float32 [dim + 1]."""
    longer = np.empty(len(query) + 1, np.float32)
    longer[:-1] = query
    # In doubles, where the square of no float32 is too large.
    doubles = query.astype(np.float64)
    longer[-1] = min(math.sqrt(doubles @ doubles), np.finfo(np.float32).max)
    return longer
