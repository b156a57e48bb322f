"""The vector index: from one user vector to the best items, while items come and go.

Small catalogues are compared item by item, large ones by lists of like items. Each change makes a
new snapshot and puts it in force by one assignment: a search keeps the snapshot that it began with,
so that readers never wait, whoever adds or removes items meanwhile.
"""

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from candidfeed.retrieval.index.exact import Among, ExactIndex
from candidfeed.retrieval.index.files import load_parts, save_parts
from candidfeed.retrieval.index.inner_products import (
    NO_ROWS,
    Floats,
    Found,
    Rows,
    all_bits,
    best_of,
    inner_products,
    without,
)
from candidfeed.retrieval.index.inverted_build import (
    DEPTHS_PER_K,
    answered,
    build_inverted,
    recall_of,
)
from candidfeed.retrieval.index.state import (
    EXACT,
    INVERTED,
    IndexParts,
    IndexReport,
    Snapshot,
)

# Users' vectors that a build uses: half to tune with, half to measure with.
N_QUERIES = 1_024
_LEAST_QUERIES = 20


@dataclass(frozen=True)
class IndexSettings:
    """
    Attributes:
        exact_below: catalogues with fewer items are compared item by item.
        recall_target: mean share of the exact best k that lists must find for users' vectors.
        recall_k: how many items are asked for when that is measured.
    """

    exact_below: int = 100_000
    recall_target: float = 0.965
    recall_k: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.recall_target <= 1 or min(self.exact_below, self.recall_k) < 1:
            raise ValueError(f"index: settings out of range: {self}")


DEFAULT_INDEX = IndexSettings()


class VectorIndex:
    """Items by row, each with a vector; `search` finds those of the largest inner product.

    Safe for any number of readers and writers in one process. A search runs on the caller's
    thread, and its scores are exact to the last bit whichever way an item was found.

    Attributes:
        base: what was built.
        report: how good that is.
    """

    def __init__(self, parts: IndexParts) -> None:
        self.base, self.report, self._snapshot = parts.base, parts.report, parts.snapshot
        self._first = parts.snapshot
        self._writer = threading.Lock()

    @staticmethod
    def build(
        vectors: NDArray[np.floating],
        *,
        queries: NDArray[np.floating] | None = None,
        settings: IndexSettings = DEFAULT_INDEX,
        seed: int = 0,
    ) -> "VectorIndex":
        """Index the rows of float32 [n_items, dim].

        Args:
            vectors: are not copied where they are float32 and C-ordered: leave them unchanged.
            queries: vectors of real users, float32 [n, dim], by which a large catalogue is tuned
                (one half of them) and its recall measured (the other). Vectors of zeros, to which
                all items are equal, don't count; with too few others, every item is compared.
            seed: of which users and samples are drawn.

        Raises:
            ValueError: a vector is not finite: it could never be found. Or a large catalogue
                comes without queries.
        """
        vectors = _matrix(vectors, "the vectors of {} items")
        if len(vectors) < settings.exact_below:
            return VectorIndex.compare_all(vectors)
        if queries is None:
            raise ValueError(
                f"index: {len(vectors):,} items need the vectors of users to be tuned with"
            )
        queries = _matrix(queries, "{} queries", dim=vectors.shape[1])
        queries = queries[queries.any(axis=1)]
        if len(queries) < _LEAST_QUERIES:
            return VectorIndex.compare_all(vectors)
        drawn = np.random.default_rng(seed).permutation(len(queries))[:N_QUERIES]
        return _tuned(vectors, queries[drawn], settings, seed)

    @staticmethod
    def compare_all(vectors: NDArray[np.floating]) -> "VectorIndex":
        """Index the rows of float32 [n_items, dim] so that every search compares all of them.

        Raises:
            ValueError: a vector is not finite.
        """
        vectors = _matrix(vectors, "the vectors of {} items")
        return VectorIndex(
            IndexParts(ExactIndex(vectors), _exact_report(vectors), _unchanged(vectors))
        )

    @staticmethod
    def load(folder: Path) -> "VectorIndex":
        """The index that `save` wrote, its large files mapped into memory.

        Raises:
            ReleaseError: a file is missing or changed, or of a version that this one can't read.
        """
        return VectorIndex(load_parts(folder))

    def save(self, folder: Path) -> None:
        """Write the index, with what has changed since the build, as a new folder.

        Raises:
            ReleaseError: there is something at `folder` already, or it can't be written.
        """
        save_parts(self.parts, folder)

    @property
    def parts(self) -> IndexParts:
        return IndexParts(self.base, self.report, self._snapshot)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def dim(self) -> int:
        return self.base.vectors.shape[1]

    def __len__(self) -> int:
        now = self._snapshot
        return len(self.base.vectors) - len(now.gone) + len(now.added_rows)

    def search(
        self,
        query: NDArray[np.floating],
        k: int,
        *,
        deny: NDArray[np.integer] = NO_ROWS,
        allow: NDArray[np.integer] | None = None,
    ) -> Found:
        """The k items with the largest inner product with `query`, float32 [dim].

        Args:
            deny: rows that may not be found. Rows that are not in the index, and rows that are
                named twice, do no harm, here and in `allow`.
            allow: the only rows that may be found; all where None, none where it is empty.

        Returns:
            Fewer than k where fewer are left.

        Raises:
            ValueError: the query is not finite, or not of this length; or rows are not integers.
        """
        query = _matrix(np.asarray(query)[None], "{} queries", dim=self.dim)[0]
        now = self._snapshot
        deny = _row_numbers(deny)
        allow = None if allow is None else _row_numbers(allow)
        found = self.base.search(query, k, self._among(now, deny, allow))
        return found if len(now.added_rows) == 0 else _merged(found, now, query, k, deny, allow)

    def add(self, rows: NDArray[np.integer], vectors: NDArray[np.floating]) -> None:
        """Take these items in, float32 [n, dim]; the next search finds them.

        An item that is there already gets the new vector. What is added is compared item by item:
        build anew when it has become a notable part of the catalogue.

        Raises:
            ValueError: a row is no integer, negative or comes twice, there are not as many rows as
                vectors, or a vector is not finite. Then nothing was added.
        """
        added_rows = _row_numbers(rows).astype(np.int64)
        added = _matrix(vectors, "the vectors of {} items", dim=self.dim)
        if added_rows.shape != (len(added),):
            raise ValueError(f"index: {added_rows.size} rows came with {len(added)} vectors")
        if len(np.unique(added_rows)) < len(added_rows) or (added_rows < 0).any():
            raise ValueError("index: a row to be added is negative or comes twice")
        if len(added_rows) and added_rows.max() > np.iinfo(np.int32).max:
            raise ValueError(f"index: row {added_rows.max()} is above the largest row")
        with self._writer:
            now = self._snapshot_without(added_rows)
            order = np.argsort(np.concatenate([now.added_rows, added_rows]), kind="stable")
            self._snapshot = replace(
                now,
                added_rows=np.concatenate([now.added_rows, added_rows])[order],
                added=np.concatenate([now.added, added])[order],
            )

    def remove(self, rows: NDArray[np.integer]) -> int:
        """Let go of these items; the next search does not find them.

        Returns:
            How many of them were there: rows that are not in the index do no harm.

        Raises:
            ValueError: rows are not integers.
        """
        gone = _row_numbers(rows).astype(np.int64)
        with self._writer:
            n_before = len(self)
            self._snapshot = self._snapshot_without(gone)
            return n_before - len(self)

    def reset(self) -> None:
        """Forget what was added and removed since the index was made or loaded."""
        with self._writer:
            self._snapshot = self._first

    def _snapshot_without(self, rows: NDArray[np.int64]) -> Snapshot:
        now = self._snapshot
        left = ~np.isin(now.added_rows, rows)
        built = np.unique(_within(rows, len(self.base.vectors)))
        return Snapshot(
            open=without(now.open, built),
            gone=np.union1d(now.gone, built).astype(np.int64),
            added_rows=now.added_rows[left],
            added=np.ascontiguousarray(now.added[left]),
        )

    def _among(
        self, now: Snapshot, deny: NDArray[np.integer], allow: NDArray[np.integer] | None
    ) -> Among | None:
        """The rows of the build that this search may find; None where it may find all."""
        n_built = len(self.base.vectors)
        denied = _within(deny, n_built)
        allowed = None if allow is None else _within(allow, n_built)
        if allowed is None and len(denied) == 0 and len(now.gone) == 0:
            return None
        return Among(now.open, denied, allowed, len(now.gone))


def _tuned(vectors: Floats, queries: Floats, settings: IndexSettings, seed: int) -> VectorIndex:
    """Lists tuned with one half of the queries and measured with the other."""
    k = min(settings.recall_k, len(vectors))
    known = answered(vectors, queries, min(int(DEPTHS_PER_K[-1] * k), len(vectors)))
    tuning, held_out = known.part(slice(0, None, 2)), known.part(slice(1, None, 2))
    base = build_inverted(vectors, tuning, k=k, recall_target=settings.recall_target, seed=seed)
    recall = recall_of(base, held_out, k)
    report = IndexReport(
        kind=INVERTED,
        n_items=len(vectors),
        dim=vectors.shape[1],
        n_lists=base.lists.nlist,
        n_probes=base.probing.most_of(k),
        n_scanned=base.probing.scanned_of(k),
        recall_k=k,
        recall_target=settings.recall_target,
        recall=round(float(recall.mean()), 4),
        recall_p5=round(float(np.quantile(recall, 0.05)), 4),
        n_held_out=len(held_out),
    )
    return VectorIndex(IndexParts(base, report, _unchanged(vectors)))


def _exact_report(vectors: Floats) -> IndexReport:
    return IndexReport(
        kind=EXACT,
        n_items=len(vectors),
        dim=vectors.shape[1],
        n_lists=0,
        n_probes=0,
        n_scanned=len(vectors),
        recall_k=len(vectors),
        recall_target=1.0,
        recall=1.0,
        recall_p5=1.0,
        n_held_out=0,
    )


def _unchanged(vectors: Floats) -> Snapshot:
    n_built, dim = vectors.shape
    no_rows = np.empty(0, np.int64)
    return Snapshot(all_bits(n_built), no_rows, no_rows, np.empty((0, dim), np.float32))


def _merged(
    found: Found,
    now: Snapshot,
    query: Floats,
    k: int,
    deny: NDArray[np.integer],
    allow: NDArray[np.integer] | None,
) -> Found:
    """What was found among the items of the build, and what is as good among those added since."""
    is_open = ~np.isin(now.added_rows, deny)
    if allow is not None:
        is_open &= np.isin(now.added_rows, allow)
    places = np.flatnonzero(is_open)
    scores = inner_products(now.added, query, places)
    rows: Rows = now.added_rows[places].astype(np.int32)
    return best_of(np.concatenate([found.rows, rows]), np.concatenate([found.scores, scores]), k)


def _row_numbers(rows: NDArray[np.integer]) -> NDArray[np.integer]:
    """
    Raises:
        ValueError: these are no integers, such as a mask of booleans, or not in one dimension.
    """
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
        raise ValueError(f"index: rows of {rows.dtype} {rows.shape} came, not integers [n]")
    return rows


def _within(rows: NDArray[np.integer], n: int) -> NDArray[np.intp]:
    """Those of the rows that are from 0 to n - 1."""
    rows = rows.astype(np.intp, copy=False)
    # Taken as unsigned, negative ones are the largest.
    if len(rows) == 0 or rows.view(np.uintp).max() < n:
        return rows
    return rows[(rows >= 0) & (rows < n)]


def _matrix(vectors: NDArray[np.floating], what: str, *, dim: int | None = None) -> Floats:
    """As finite, C-ordered float32 [n, dim].

    Raises:
        ValueError: it is not of that shape, or not finite.
    """
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or (dim is not None and matrix.shape[1] != dim):
        wanted = f"[n, {'dim' if dim is None else dim}]"
        raise ValueError(f"index: vectors of shape {matrix.shape} came, not {wanted}")
    if not np.isfinite(matrix).all():
        bad = np.count_nonzero(~np.isfinite(matrix).all(axis=1))
        raise ValueError(f"index: {what.format(bad)} are not finite")
    return matrix
