"""Closed-form factorisation of who touched what: the warm start of the two-tower model."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

# What a block of rows gathers: 8 MiB, so that it stays in cache.
_BLOCK_FLOATS = 2**21
# Systems of more unknowns than this are solved step by step: exactly they take most of the time.
_MAX_EXACT = 64
_STEPS = 12
# Of the right side: what a solution by steps may leave over.
_LEFT_OVER = 3e-3
_TINY = np.float32(1e-30)
_ROWS_AT_ONCE = 65_536

Floats = NDArray[np.float32]


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
    unseen_weight: float = 0.2
    reg: float = 0.02
    n_iterations: int = 6

    def __post_init__(self) -> None:
        if min(self.dim, self.unseen_weight, self.reg, self.n_iterations) <= 0:
            raise ValueError(f"factors: each setting must be above 0, not {self}")


def factorise(
    matrix: sp.csr_matrix,
    settings: FactorSettings,
    *,
    rng: np.random.Generator,
    start: Floats | None = None,
) -> Floats:
    """Item vectors, float32 [n_items, dim], of a binary matrix [n_users, n_items].

    The same `rng` state gives the same vectors, on however many cores.

    Args:
        start: item vectors to begin with, float32 [n_items, dim]; random ones where None.

    Source: Rendle et al., "Revisiting the Performance of iALS on Item Recommendation Benchmarks"
    (RecSys 2022), eq. 7 with frequency-scaled regularisation, exponent 1.
    """
    by_item = matrix.T.tocsr()
    if start is None:
        start = _random_rows(len(by_item.indptr) - 1, settings.dim, rng)
    items = np.asarray(start, np.float32)
    with side_by_side() as pool:
        for _ in range(settings.n_iterations):
            users = _fold_in(pool, matrix, items, settings)
            items = _fold_in(pool, by_item, users, settings)
    return items


def _random_rows(n: int, dim: int, rng: np.random.Generator) -> Floats:
    """Small normal numbers, float32 [n, dim]; drawn in parts, for all as doubles take more."""
    rows = np.empty((n, dim), np.float32)
    for start in range(0, n, _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        part[:] = rng.standard_normal(part.shape) * (0.1 / np.sqrt(dim))
    return rows


def gram_of(vectors: Floats) -> NDArray[np.float64]:
    """Inner products of the columns, in doubles, [dim, dim]; a part of the rows at a time."""
    parts = (
        vectors[start : start + _ROWS_AT_ONCE].astype(np.float64)
        for start in range(0, max(1, len(vectors)), _ROWS_AT_ONCE)
    )
    return sum((part.T @ part for part in parts), np.zeros((vectors.shape[1],) * 2))


def fold_in(
    matrix: sp.csr_matrix, vectors: NDArray[np.float32], settings: FactorSettings
) -> NDArray[np.float32]:
    """Least-squares vector of each row given the vectors of its columns, float32 [n_rows, dim].

    A row without events gets zeros. A row's vector does not depend on the other rows, beyond the
    last digits: rows of about equal counts are solved together.
    """
    with side_by_side() as pool:
        return _fold_in(pool, matrix, vectors, settings)


@contextmanager
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """Threads for blocks of rows, each with one BLAS thread.

    Products this small are slower on several BLAS threads, and their sums would depend on the
    number of cores.
    """
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool


@cache
def _libraries() -> ThreadpoolController:
    # To find the libraries takes milliseconds, as long as a small fold-in.
    return ThreadpoolController()


def _fold_in(
    pool: ThreadPoolExecutor,
    matrix: sp.csr_matrix,
    vectors: NDArray[np.float32],
    settings: FactorSettings,
) -> NDArray[np.float32]:
    counts = np.diff(matrix.indptr)
    dim = vectors.shape[1]
    solved = np.zeros((len(counts), dim), dtype=np.float32)

    def solve_rows(rows: NDArray[np.intp]) -> None:
        n = counts[rows]
        place = np.arange(n.max())
        is_event = place < n[:, None]
        events = np.where(is_event, matrix.indptr[rows][:, None] + place, 0)
        own = rotated[np.where(is_event, matrix.indices[events], len(vectors))]
        ridge = settings.reg * (n + settings.unseen_weight * len(vectors))
        penalty = spectrum + ridge.astype(np.float32)[:, None]
        if min(len(place), dim) > _MAX_EXACT:
            solved[rows] = _solve_by_steps(own, penalty)
        elif len(place) < dim:
            solved[rows] = _solve_dual(own, penalty, is_event)
        else:
            solved[rows] = _solve_primal(own, penalty)

    gram = settings.unseen_weight * gram_of(vectors)
    # In the basis of the Gram matrix' eigenvectors, what all rows share is diagonal.
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    spectrum = np.maximum(eigenvalues, 0).astype(np.float32)
    basis = eigenvectors.astype(np.float32)
    rotated = np.vstack([vectors @ basis, np.zeros((1, dim), np.float32)])
    list(pool.map(solve_rows, _blocks(counts, dim)))
    return solved @ basis.T


def _solve_primal(own: Floats, penalty: Floats) -> Floats:
    """Ridge regression of ones on each row's own vectors: `dim` unknowns a row.

    Args:
        own: float32 [b, n, dim]; zeros where there is no event.
        penalty: of each coordinate, float32 [b, dim]; > 0.
    """
    left = own.transpose(0, 2, 1) @ own
    diagonal = np.arange(own.shape[2])
    left[:, diagonal, diagonal] += penalty
    right = own.sum(axis=1)[..., None]
    return np.linalg.solve(left, right)[..., 0].astype(np.float32, copy=False)


def _solve_dual(own: Floats, penalty: Floats, is_event: NDArray[np.bool_]) -> Floats:
    """The same (Woodbury's identity) with an unknown an event: cheaper where events are few.

    Args:
        own, penalty: as in `_solve_primal`.
        is_event: bool [b, n].
    """
    scaled = own / penalty[:, None, :]
    left = scaled @ own.transpose(0, 2, 1)
    diagonal = np.arange(own.shape[1])
    left[:, diagonal, diagonal] += 1.0
    weights = np.linalg.solve(left, is_event.astype(np.float32)[..., None])
    return (scaled.transpose(0, 2, 1) @ weights)[..., 0].astype(np.float32, copy=False)


def _solve_by_steps(own: Floats, penalty: Floats) -> Floats:
    """The same by conjugate gradients: what a step costs grows with events times `dim` only.

    Preconditioned with the penalty, few steps are needed. Arguments as in `_solve_primal`.

    Source: Takacs, Pilaszy, Tikk, RecSys 2011 (CG for iALS).
    """
    residual = own.sum(axis=1)
    vectors = np.zeros_like(residual)
    scaled = residual / penalty
    direction = scaled
    product = _dot(residual, scaled)
    enough = _LEFT_OVER**2 * product
    for _ in range(_STEPS):
        fitted = own.transpose(0, 2, 1) @ (own @ direction[..., None])
        ahead = fitted[..., 0] + penalty * direction
        step = product / np.maximum(_dot(direction, ahead), _TINY)
        vectors += step * direction
        residual = residual - step * ahead
        scaled = residual / penalty
        before, product = product, _dot(residual, scaled)
        if (product <= enough).all():
            break
        direction = scaled + product / np.maximum(before, _TINY) * direction
    return vectors


def _dot(one: Floats, other: Floats) -> Floats:
    """Inner products of rows, float32 [b, 1]."""
    return np.einsum("bd,bd->b", one, other)[:, None]


def _blocks(counts: NDArray[np.integer], dim: int) -> list[NDArray[np.intp]]:
    """Rows that have events, those of about equal counts together, a bounded number at a time."""
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    blocks, start = [], 0
    while start < len(order):
        ahead = counts[order[start : start + _BLOCK_FLOATS // dim]]
        # Padded to the longest of them, which is the last.
        size = np.arange(1, len(ahead) + 1) * ahead * dim
        stop = start + max(1, int(np.searchsorted(size, _BLOCK_FLOATS, side="right")))
        blocks.append(order[start:stop])
        start = stop
    return blocks
