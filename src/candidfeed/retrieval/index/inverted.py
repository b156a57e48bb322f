"""Search in a part of the catalogue: the lists of like items that a query is likely to need.

An item stands in one list, with vectors of like norm and direction. A query looks into the lists
whose items it may score best: by the inner product with the list's mean, and by how far its items
spread around that. What it finds there by 8-bit codes is scored again by the vectors themselves.
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
    best_of,
    count,
    inner_products,
    nothing_found,
    rows_in,
    untyped_faiss,
)

# Up to here comparing every open item is as fast as looking for lists.
_FEW_ROWS = 16_384
# The codes order what is about equal wrongly: more are fetched than asked for, and scored again.
_SHORTLIST = 1.3
_LEAST_SPARE = 32


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

    @property
    def deepest(self) -> int:
        return int(self.depths[-1])

    def most_of(self, depth: int) -> int:
        """Lists to look into at most; depth is at most the deepest."""
        return int(np.ceil(np.interp(depth, self.depths, self.most)))

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
        least = np.interp(depth, self.depths, self.shares) * at_reference
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

    def search(self, query: Floats, k: int, among: Among | None) -> Found:
        """About the k rows with the largest inner product with `query`, float32 [dim] and finite.

        Each score is exact, and never are there fewer than k rows where k are open.

        Args:
            among: rows that may be found; all where None.
        """
        if k <= 0:
            return nothing_found()
        if among is None:
            return self._search_all(query, k)
        if among.allowed is not None or len(self.vectors) - len(among.shut_out) <= _FEW_ROWS:
            return self._search_part(query, k, among)
        return self._search_rest(query, k, among)

    def _search_all(self, query: Floats, k: int) -> Found:
        if k <= self.probing.deepest:
            scores, lists = self._nearest(query, k)
            found = self._probe(query, k, lists[: self.probing.n_needed(scores, k)], None)
            if len(found) == k:
                return found
        return best_of(np.arange(len(self.vectors)), inner_products(self.vectors, query), k)

    def _search_rest(self, query: Floats, k: int, among: Among) -> Found:
        """Where a few rows are shut out: as much deeper as there are in the lists looked into."""
        if k > self.probing.deepest:
            return self._compare_open(query, k, among)
        # Mostly they are so few that one choice of lists is enough.
        ready = min(self.probing.deepest, k + k // 8)
        scores, lists = self._nearest(query, ready)
        places = self._places(among.shut_out, lists)
        n_met = np.count_nonzero(places < self.probing.n_needed(scores, k))
        depth = k + int(n_met)
        if depth > self.probing.deepest:
            return self._compare_open(query, k, among)
        if depth > ready:
            scores, lists = self._nearest(query, depth)
            places = self._places(among.shut_out, lists)
        n_lists = self.probing.n_needed(scores, depth)
        met = among.shut_out[places < n_lists]
        # The inner selector, too, must live as long as the search.
        shut_out = untyped_faiss.IDSelectorBatch(met) if len(met) else None
        selector = untyped_faiss.IDSelectorNot(shut_out) if shut_out else None
        found = self._probe(query, k, lists[:n_lists], selector)
        return found if len(found) == k else self._compare_open(query, k, among)

    def _search_part(self, query: Floats, k: int, among: Among) -> Found:
        """Where it is not known before whether few or many are open."""
        n_open = count(among.open)
        if n_open <= _FEW_ROWS or k > self.probing.deepest:
            return self._compare_open(query, k, among)
        # Twice the average, for what is allowed may lie far from the user's best.
        lists = self._nearest_open(query, 2 * self.probing.scanned_of(k), among)
        found = self._probe(query, k, lists, untyped_faiss.IDSelectorBitmap(among.open))
        return found if len(found) == k else self._compare_open(query, k, among)

    def _nearest(self, query: Floats, depth: int) -> tuple[Floats, NDArray[np.int64]]:
        """Scores of lists and the lists, best first, as many as may be needed for this depth."""
        n = self.probing.most_of(depth)
        scores, lists = self._nearest_lists.search(_with_norm(query)[None], n)
        return scores[0], lists[0]

    def _nearest_open(self, query: Floats, n_rows: int, among: Among) -> NDArray[np.int64]:
        """Lists with open rows, best first, as many as it takes to look at `n_rows` of those."""
        open_rows = rows_in(among.open, len(self.vectors))
        n_open = np.bincount(self.list_of[open_rows], minlength=self.lists.nlist)
        scores = inner_products(self._list_table, _with_norm(query))
        order = np.argsort(-scores, kind="stable")
        order = order[n_open[order] > 0]
        enough = np.searchsorted(np.cumsum(n_open[order]), n_rows) + 1
        return np.ascontiguousarray(order[:enough])

    def _places(self, rows: NDArray[np.integer], lists: NDArray[np.int64]) -> NDArray[np.integer]:
        """The place of each row's list among these, from 0; a place behind them for other lists."""
        place_of = np.full(self.lists.nlist, len(lists), np.int32)
        place_of[lists] = np.arange(len(lists), dtype=np.int32)
        # All rows are known: clipping spares the check of each.
        return place_of.take(self.list_of.take(rows, mode="clip"), mode="clip")

    def _probe(self, query: Floats, k: int, lists: NDArray[np.int64], selector: Any) -> Found:
        """The best of what the selector lets in of these lists; all of it where it is None."""
        n = max(int(k * _SHORTLIST), k + _LEAST_SPARE)
        coded, rows = np.empty(n, np.float32), np.empty(n, np.int64)
        # A list's own score is no part of an item's: the codes hold whole vectors.
        nothing = np.zeros(len(lists), np.float32)
        params = untyped_faiss.SearchParametersIVF(sel=selector, nprobe=len(lists))
        point = untyped_faiss.swig_ptr
        untyped_faiss.IndexIVF.search_preassigned_c(
            self.lists, 1, point(query), n, point(lists), point(nothing), point(coded), point(rows),
            False, params,
        )  # fmt: skip
        if rows[-1] < 0:
            rows = rows[rows >= 0]
        return best_of(rows, inner_products(self.vectors, query, rows), k)

    def _compare_open(self, query: Floats, k: int, among: Among) -> Found:
        rows = rows_in(among.open, len(self.vectors))
        return best_of(rows, inner_products(self.vectors, query, rows), k)


def _with_norm(query: Floats) -> Floats:
    """What a list's mean and spread are multiplied with, float32 [dim + 1]."""
    longer = np.empty(len(query) + 1, np.float32)
    longer[:-1] = query
    # In doubles, where the square of no float32 is too large.
    longer[-1] = min(np.linalg.norm(query.astype(np.float64)), np.finfo(np.float32).max)
    return longer
