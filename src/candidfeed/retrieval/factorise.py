"""Closed-form factorisation of who touched what: the warm start of the two-tower model."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class FactorSettings:
    """iALS with regularisation that grows with a row's number of events.

    Attributes:
        dim: length of a vector.
        unseen_weight: how much every pair's score is pulled to 0, where an observed one's is
            pulled to 1 with weight 1; > 0.
        reg: regularisation; a row with n events gets `reg * (n + unseen_weight * n_columns)`; > 0.
        n_iterations: alternations of users and items.
    """

    dim: int = 64
    unseen_weight: float = 0.1
    reg: float = 0.03
    n_iterations: int = 10

    def __post_init__(self) -> None:
        if min(self.dim, self.unseen_weight, self.reg, self.n_iterations) <= 0:
            raise ValueError(f"factors: each setting must be above 0, not {self}")


def factorise(
    matrix: sp.csr_matrix, settings: FactorSettings, *, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Item vectors, float32 [n_items, dim], of a binary matrix [n_users, n_items].

    The same `rng` state gives the same vectors, on however many cores.

    Source: Rendle et al., "Revisiting the Performance of iALS on Item Recommendation Benchmarks"
    (RecSys 2022), eq. 7 with frequency-scaled regularisation, exponent 1.
    """
    by_item = matrix.T.tocsr()
    n_items = len(by_item.indptr) - 1
    spread = 0.1 / np.sqrt(settings.dim)
    items = (rng.standard_normal((n_items, settings.dim)) * spread).astype(np.float32)
    for _ in range(settings.n_iterations):
        users = fold_in(matrix, items, settings)
        items = fold_in(by_item, users, settings)
    return items


def fold_in(
    matrix: sp.csr_matrix, vectors: NDArray[np.float32], settings: FactorSettings
) -> NDArray[np.float32]:
    """Least-squares vector of each row given the vectors of its columns, float32 [n_rows, dim].

    A row without events gets zeros. A row's vector does not depend on the other rows.
    """
    counts = np.diff(matrix.indptr)
    ridge = (settings.reg * (counts + settings.unseen_weight * len(vectors))).astype(np.float32)
    diagonal = np.arange(vectors.shape[1])
    solved = np.empty((len(counts), vectors.shape[1]), dtype=np.float32)

    def solve_rows(start: int) -> None:
        rows = range(start, min(start + _ROWS_AT_ONCE, len(solved)))
        left = np.tile(gram, (len(rows), 1, 1))
        for place, row in enumerate(rows):
            own = vectors[matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]]
            left[place] += own.T @ own
        left[:, diagonal, diagonal] += ridge[rows, None]
        solved[rows] = np.linalg.solve(left, right[rows][:, :, None])[..., 0]

    # Products this small are slower on several BLAS threads, and their sums would depend on the
    # number of cores; the blocks run side by side instead.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        gram = settings.unseen_weight * (vectors.T @ vectors)
        right = matrix @ vectors
        list(pool.map(solve_rows, range(0, len(solved), _ROWS_AT_ONCE)))
    return solved
