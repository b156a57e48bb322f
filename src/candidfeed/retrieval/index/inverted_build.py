"""How lists of like items are made, and how many of them a query must look into.

Inner products depend on lengths as much as on directions: popular items of a factorisation are a
hundred times as long as rare ones, and lists by direction alone put both together, so that half the
catalogue must be read. Items are therefore parted by how high they may score for users, which is
more than length where vectors hold a bias, and each part into lists of items that users score
alike: near vectors, where a direction counts for as much as users' vectors differ along it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import faiss
import numpy as np
from numpy.typing import NDArray

from candidfeed.retrieval.index.inner_products import Floats, untyped_faiss
from candidfeed.retrieval.index.inverted import InvertedIndex, Probing

# Lists at a million items: 8,000. More make the choice of lists slower, fewer the lists longer.
_LISTS_PER_ROOT = 8.0
# Where the catalogue is cut by reach, as shares of its items.
_PARTS = (0.4, 0.75, 0.94)
_SAMPLES_PER_LIST = 64
_ITERATIONS = 10
# A list is cut that is so much longer than was wanted, or than so many items if that is shorter.
_LONGEST_LIST = 4.0
_LEAST_WANTED = 32
_CODE_SAMPLES = 65_536
_BITS = 4
_ROWS_AT_ONCE = 65_536
# FAISS compares fewer than 20 queries one by one, each on one thread: for long answers that is
# faster than its matrix product.
_QUERIES_AT_ONCE = 16
_SPREADS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
# 0: all users look into as many lists.
_REFERENCES = (0, 5, 20)
# One user in twenty needs more lists than a search may look into, which keeps the slowest quick;
# what they lose, the others make up for.
_CAPPED_ABOVE = 0.95
_LOST_BY_CAP = 0.25
# How much a direction counts along which the users that are known do not differ, of the mean.
_UNSEEN = 0.01
_TINY = np.finfo(np.float32).tiny
# For how many of the best items a depth is found: searches that shut items out look deeper than k.
DEPTHS_PER_K = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# What choosing a list costs, in items looked at.
_LIST_COST = 40
_MAX_CORRECTIONS = 20
_CORRECTION = 1.05


@dataclass(frozen=True)
class Queries:
    """Users' vectors and what is right for them.

    Attributes:
        vectors: float32 [n, dim].
        best: rows of the best items by exact search, best first, int64 [n, depth].
    """

    vectors: Floats
    best: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, rows: slice) -> "Queries":
        return Queries(self.vectors[rows], self.best[rows])


def answered(vectors: Floats, queries: Floats, depth: int) -> Queries:
    """What exact search finds for each query, `depth` deep."""
    best = [
        untyped_faiss.knn(part, vectors, depth, metric=faiss.METRIC_INNER_PRODUCT)[1]
        for part in _blocks(queries, _QUERIES_AT_ONCE)
    ]
    return Queries(queries, np.concatenate(best))


def build_inverted(
    vectors: Floats, tuning: Queries, *, k: int, recall_target: float, seed: int
) -> InvertedIndex:
    """Lists over the rows of float32 [n_items, dim], deep enough for the target at `k`.

    Args:
        vectors: finite, C-ordered; not copied.
        tuning: users' vectors with their best items, at least `k` deep.
        recall_target: mean share of the best k that a search must find for these users.
        seed: of the samples that lists are made of.
    """
    rng = np.random.default_rng(seed)
    scoring = _scoring(tuning.vectors)
    list_of = _short_lists(_lists_by_reach(vectors, tuning.vectors, scoring, rng))
    means, deviations = _means_and_deviations(vectors, list_of, scoring)
    lists = _coded(vectors, list_of, means, samples=_likely(tuning, rng))
    probing = _choose_probing(list_of, means, deviations, tuning, k=k, target=recall_target)
    for _ in range(_MAX_CORRECTIONS):
        index = InvertedIndex(vectors, lists, list_of, probing)
        if recall_of(index, tuning, k).mean() >= recall_target:
            break
        # What the codes lose is made up for by more lists.
        probing = _deeper(probing, n_lists=lists.nlist, n_items=len(vectors))
    return InvertedIndex(vectors, lists, list_of, probing)


def recall_of(index: InvertedIndex, queries: Queries, k: int) -> NDArray[np.float64]:
    """Share of the exact k best that a search finds, by query, float64 [n]."""
    k = min(k, queries.best.shape[1])
    return np.array(
        [
            np.isin(best[:k], index.search(query, k, None).rows).mean()
            for query, best in zip(queries.vectors, queries.best, strict=True)
        ]
    )


# Lists


def _scoring(users: Floats) -> Floats:
    """A map under which the square of a vector's length is the mean square of its scores.

    Of users whose vectors have length 1; float32 [dim, dim], to be multiplied from the right.
    K-means in what it maps to loses as little as it can of what scores tell apart, as the
    quantisation of Guo et al., ICML 2020 (ScaNN), does for each vector by itself.

    Args:
        users: vectors of real users, float32 [n, dim]; none is all zeros.
    """
    units = (users / np.linalg.norm(users, axis=1, keepdims=True)).astype(np.float64)
    variances, directions = np.linalg.eigh(units.T @ units / len(units))
    # Others may look where these few do not.
    variances = np.maximum(variances, 0.0) + _UNSEEN * variances.mean()
    return (directions * np.sqrt(variances)).astype(np.float32)


def _lists_by_reach(
    vectors: Floats, users: Floats, scoring: Floats, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The list of each row, int64 [n_items]; lists of items that may score higher come first.

    Args:
        users: vectors of real users, float32 [n, dim]; none is all zeros.
        scoring: see `_scoring`.
    """
    reach = _reach(vectors, users)
    edges = np.quantile(reach, _PARTS)[::-1]
    part_of = np.searchsorted(-edges, -reach)
    sizes = np.bincount(part_of, minlength=len(_PARTS) + 1)
    list_of = np.empty(len(vectors), np.int64)
    n_lists = 0
    for part, n in enumerate(_lists_of_parts(sizes)):
        rows = np.flatnonzero(part_of == part)
        if len(rows) == 0:
            continue
        lists = _nearest_centres(vectors[rows] @ scoring, n, rng)
        list_of[rows] = n_lists + lists
        n_lists += lists.max() + 1
    return list_of


def _reach(vectors: Floats, users: Floats) -> Floats:
    """How high each item scores for those who like it best, float32 [n_items].

    Three standard deviations above its mean score, of users whose vectors have length 1.
    """
    units = users / np.linalg.norm(users, axis=1, keepdims=True)
    mean = units.mean(axis=0)
    spread = (units - mean).T @ (units - mean) / len(units)
    variances = np.einsum("ij,ij->i", vectors @ spread, vectors)
    return vectors @ mean + 3.0 * np.sqrt(np.maximum(variances, 0.0))


def _lists_of_parts(sizes: NDArray[np.int64]) -> list[int]:
    """How many lists each part gets: half by its size, half by the root of it.

    The parts that reach high are small, and are looked into by every query.
    """
    n_lists = _LISTS_PER_ROOT * np.sqrt(sizes.sum())
    roots = np.sqrt(sizes)
    wanted = n_lists * (sizes / sizes.sum() + roots / roots.sum()) / 2
    return np.clip(np.round(wanted), 1, np.maximum(sizes // 8, 1)).astype(int).tolist()


def _nearest_centres(vectors: Floats, n_lists: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """K-means of some of the rows, and the nearest centre of each row."""
    n_lists = min(n_lists, len(vectors))
    if n_lists <= 1:
        return np.zeros(len(vectors), np.int64)
    n_samples = min(len(vectors), _SAMPLES_PER_LIST * n_lists)
    samples = vectors[np.sort(rng.choice(len(vectors), n_samples, replace=False))]
    means = faiss.Kmeans(
        vectors.shape[1], n_lists, niter=_ITERATIONS, min_points_per_centroid=1,
        max_points_per_centroid=_SAMPLES_PER_LIST, seed=int(rng.integers(2**31)),
    )  # fmt: skip
    means.train(samples)
    centres = faiss.IndexFlatL2(vectors.shape[1])
    centres.add(np.nan_to_num(np.asarray(means.centroids)))
    return np.concatenate(
        [centres.search(block, 1)[1][:, 0] for block in _blocks(vectors, _ROWS_AT_ONCE)]
    )


def _short_lists(list_of: NDArray[np.int64]) -> NDArray[np.integer]:
    """The same lists without empty ones, and the long ones cut, by row, into equal parts.

    Where many items are alike, or were never trained, a list could hold half the catalogue.
    """
    sizes = np.bincount(list_of)
    sizes = sizes[sizes > 0]
    number_of = np.unique(list_of, return_inverse=True)[1]
    wanted = max(np.sqrt(len(list_of)) / _LISTS_PER_ROOT, _LEAST_WANTED)
    longest = int(_LONGEST_LIST * wanted)
    n_cuts = -(-sizes // longest)
    by_list = np.argsort(number_of, kind="stable")
    place = np.empty(len(list_of), np.int64)
    place[by_list] = np.arange(len(list_of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = np.cumsum(n_cuts) - n_cuts
    short = first[number_of] + place * n_cuts[number_of] // sizes[number_of]
    # A deny list looks its rows up here: half as many bytes stay in the cache.
    return short.astype(np.uint16 if n_cuts.sum() <= 2**16 else np.int32)


def _means_and_deviations(
    vectors: Floats, list_of: NDArray[np.integer], scoring: Floats
) -> tuple[Floats, Floats]:
    """Mean of each list, float32 [n_lists, dim], and the standard deviation of its items' scores.

    Args:
        scoring: see `_scoring`.
    """
    sizes = np.bincount(list_of)
    sums = [np.bincount(list_of, vectors[:, axis]) for axis in range(vectors.shape[1])]
    means = np.stack(sums, axis=1) / sizes[:, None]
    variances = np.zeros(len(sizes))
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        away = (vectors[some] - means[list_of[some]]).astype(np.float32) @ scoring
        squares = np.einsum("ij,ij->i", away, away)
        variances += np.bincount(list_of[some], squares, minlength=len(sizes))
    return means.astype(np.float32), np.sqrt(variances / sizes).astype(np.float32)


def _likely(tuning: Queries, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows to learn codes from: those that users find, for only their scores must be told apart."""
    return np.sort(rng.choice(np.unique(tuning.best), _CODE_SAMPLES))


def _coded(
    vectors: Floats, list_of: NDArray[np.integer], means: Floats, *, samples: NDArray[np.int64]
) -> faiss.IndexIVFPQFastScan:
    """Four bits a coordinate say how far an item lies from the mean of its list."""
    n_items, dim = vectors.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(means)
    coded = faiss.IndexIVFPQ(quantizer, dim, len(means), dim, _BITS, faiss.METRIC_INNER_PRODUCT)
    coded.pq.cp.min_points_per_centroid = 1
    coded.pq.train(vectors[samples] - means[list_of[samples]])
    coded.is_trained = True
    for start in range(0, n_items, _ROWS_AT_ONCE):
        block = np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE])
        rows = np.arange(start, start + len(block))
        where = list_of[rows].astype(np.int64)
        pointers = (untyped_faiss.swig_ptr(each) for each in (block, rows, where))
        coded.add_core(len(block), *pointers)
    return faiss.IndexIVFPQFastScan(coded)


# How deep to look


@dataclass(frozen=True)
class _Met:
    """Where the best items of users stand, once lists are ordered by their scores.

    Attributes:
        scores: of the lists, falling, float32 [n_queries, n_lists].
        looked_at: items in the lists up to each, int64 [n_queries, n_lists].
        places: of the list that holds each of the best items, int64 [n_queries, depth].
    """

    scores: Floats
    looked_at: NDArray[np.int64]
    places: NDArray[np.int64]

    @staticmethod
    def of(tuning: Queries, list_of: NDArray[np.integer], means: Floats, spreads: Floats) -> "_Met":
        norms = np.linalg.norm(tuning.vectors, axis=1, keepdims=True)
        scores = tuning.vectors @ means.T + norms * spreads
        order = np.argsort(-scores, axis=1, kind="stable")
        place_of = np.empty_like(order)
        np.put_along_axis(place_of, order, np.arange(order.shape[1])[None], axis=1)
        return _Met(
            scores=np.take_along_axis(scores, order, axis=1),
            looked_at=np.cumsum(np.bincount(list_of)[order], axis=1),
            places=np.take_along_axis(place_of, list_of[tuning.best].astype(np.int64), axis=1),
        )

    def least_share(self, places: NDArray[np.int64], reference: int, target: float) -> float:
        """Share of the reference's score that the lists at most of these places have, -1 to 1."""
        at_reference = np.maximum(self.scores[:, reference - 1 : reference], _TINY)
        scores = np.take_along_axis(self.scores, places, axis=1)
        shares = np.clip(scores, -at_reference, at_reference) / at_reference
        return float(np.quantile(shares, 1 - target, method="lower"))

    def n_lists(self, reference: int, share: float) -> NDArray[np.int64]:
        """Lists that each query looks into, int64 [n_queries]."""
        at_reference = np.maximum(self.scores[:, reference - 1 : reference], _TINY)
        return np.maximum((self.scores >= share * at_reference).sum(axis=1), reference)


def _choose_probing(
    list_of: NDArray[np.integer],
    means: Floats,
    deviations: Floats,
    tuning: Queries,
    *,
    k: int,
    target: float,
) -> Probing:
    """The spread and the rule that reach the target by looking at the fewest items."""
    options = []
    for spread in _SPREADS:
        spreads = (spread * deviations).astype(np.float32)
        met = _Met.of(tuning, list_of, means, spreads)
        fitting = [one for one in _REFERENCES if one < len(means)]
        options += [_probing(met, spreads, one, k=k, target=target) for one in fitting]
    return min(options, key=lambda one: one.scanned_of(k) + _LIST_COST * one.most_of(k))


def _probing(met: _Met, spreads: Floats, reference: int, *, k: int, target: float) -> Probing:
    deepest = met.places.shape[1]
    depths = np.unique([max(1, int(share * k)) for share in DEPTHS_PER_K])
    depths = depths[depths <= deepest]
    most, shares, scanned = [], [], []
    for depth in depths:
        # The last k: where items are denied, these are the ones that will be shown.
        places = met.places[:, max(0, depth - k) : depth]
        if reference:
            strict = target + _LOST_BY_CAP * (1 - target)
            share = met.least_share(places, reference, strict)
            n_lists = met.n_lists(reference, share)
            cap = int(np.quantile(n_lists, _CAPPED_ABOVE, method="higher"))
        else:
            cap = 1 + int(np.quantile(places, target, method="inverted_cdf"))
            share, n_lists = 0.0, np.full(len(places), cap)
        looked_at = met.looked_at[np.arange(len(places)), np.minimum(n_lists, cap) - 1]
        most.append(cap)
        shares.append(share)
        scanned.append(int(np.ceil(looked_at.mean())))
    return Probing(
        reference=reference,
        spreads=spreads,
        depths=depths.astype(np.int64),
        most=np.maximum.accumulate(most).astype(np.int64),
        shares=np.minimum.accumulate(shares).astype(np.float64),
        scanned=np.maximum.accumulate(scanned).astype(np.int64),
    )


def _deeper(probing: Probing, *, n_lists: int, n_items: int) -> Probing:
    """A twentieth more lists, and more of them for those who need many."""
    return replace(
        probing,
        most=np.minimum(np.ceil(_CORRECTION * probing.most), n_lists).astype(np.int64),
        shares=probing.shares - (_CORRECTION - 1) * np.abs(1 - probing.shares) / 2,
        scanned=np.minimum(np.ceil(_CORRECTION * probing.scanned), n_items).astype(np.int64),
    )


def _blocks(rows: Floats, n: int) -> Iterator[Floats]:
    for start in range(0, len(rows), n):
        yield rows[start : start + n]
