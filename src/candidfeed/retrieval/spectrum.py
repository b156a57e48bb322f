"""The leading spectrum of the graph of users and items: what neighbours of neighbours share."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.retrieval.factorise import side_by_side

# Directions beyond those asked for, and rounds: the weakest of those asked for come out right.
_SPARE = 16
_ROUNDS = 4
_ROWS_AT_ONCE = 4096

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Spectrum:
    """The strongest directions of the links, each divided by the root of both ends' counts.

    A link counts less the more links its user and its item have, so that neither heavy users nor
    the most popular items fill the first directions.

    Attributes:
        directions: orthonormal columns, strongest first, float32 [n_items, rank]; zeros where an
            item was not touched, and in columns beyond the rank of the links.
        strengths: singular values, float32 [rank]; the first is 1.
        item_scale: root of the users of each item, float32 [n_items]; 1 where there is none.
    """

    directions: Floats
    strengths: Floats
    item_scale: Floats

    @property
    def rank(self) -> int:
        return len(self.strengths)

    def tables(self, rank: int) -> tuple[Floats, Floats]:
        """A low-pass filter as a product of two tables, float32 [n_items, rank] both.

        A history's rows of the first, summed, times the second: the history as the strongest
        directions see it, each weighted by its strength.

        Source: Shen et al., "How Powerful is Graph Convolution for Recommendation?" (CIKM 2021),
        the ideal low-pass filter of GF-CF, here not cut off sharply.
        """
        leading = self.directions[:, :rank]
        scale = self.item_scale[:, None]
        return leading / scale, leading * self.strengths[:rank] * scale

    def start(self, dim: int) -> Floats:
        """Item vectors that a factorisation may begin with, float32 [n_items, dim].

        Their mean square length is 1, or 0 where there are no links.
        """
        vectors = self.directions[:, :dim] * self.item_scale[:, None]
        vectors *= np.sqrt(self.strengths[:dim])
        length = np.sqrt(np.square(vectors).sum(axis=1).mean())
        return vectors / length if length > 0 else vectors


def leading_spectrum(matrix: sp.csr_matrix, rank: int) -> Spectrum:
    """Of a binary matrix [n_users, n_items]; the same on however many cores."""
    by_item = matrix.T.tocsr()
    of_user, of_item = (1.0 / np.sqrt(np.maximum(np.diff(each.indptr), 1.0))
                        for each in (matrix, by_item))  # fmt: skip
    weights = np.repeat(of_user, np.diff(matrix.indptr)) * of_item[matrix.indices]
    shape = (len(of_user), len(of_item))
    links = sp.csr_matrix((weights, matrix.indices, matrix.indptr), shape=shape, dtype=np.float32)
    directions, strengths = _strongest(links, min(rank, *shape))
    missing = rank - len(strengths)
    return Spectrum(
        np.pad(directions, ((0, 0), (0, missing))),
        np.pad(strengths, (0, missing)),
        (1.0 / of_item).astype(np.float32),
    )


def _strongest(links: sp.csr_matrix, rank: int) -> tuple[Floats, Floats]:
    """Right singular vectors [n_items, rank] and singular values, strongest first.

    Source: Halko, Martinsson, Tropp, SIAM Review 2011, algorithm 4.4.
    """
    by_item = links.T.tocsr()
    n_items = len(by_item.indptr) - 1
    width = min(rank + _SPARE, len(links.indptr) - 1, n_items)
    # Fixed: what comes out hardly depends on it.
    basis = np.random.default_rng(0).standard_normal((n_items, width), dtype=np.float32)
    with side_by_side() as pool:
        for _ in range(_ROUNDS):
            seen = _product(pool, links, basis)
            basis = np.linalg.qr(_product(pool, by_item, seen)).Q
        seen = _product(pool, links, basis)
        squares, turned = np.linalg.eigh(seen.T @ seen)
        directions = basis @ turned[:, ::-1][:, :rank]
    strengths = np.sqrt(np.maximum(squares[::-1][:rank], 0.0))
    # Beyond the rank of the links there are only rounding errors.
    directions[:, strengths <= 1e-3 * strengths[:1]] = 0.0
    return directions, strengths


def _product(pool: ThreadPoolExecutor, matrix: sp.csr_matrix, dense: Floats) -> Floats:
    """matrix @ dense, rows side by side."""
    found = np.empty((len(matrix.indptr) - 1, dense.shape[1]), np.float32)

    def fill(start: int) -> None:
        rows = slice(start, start + _ROWS_AT_ONCE)
        found[rows] = matrix[rows] @ dense

    list(pool.map(fill, range(0, len(found), _ROWS_AT_ONCE)))
    return found
