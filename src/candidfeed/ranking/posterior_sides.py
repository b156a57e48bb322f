"""One side of the factorisation of `posterior`: the vectors of users, or of items, and their prior.

Source: Simm et al., MLSP 2017 (the prior's mean), with each group's weights drawn at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Floats = NDArray[np.float64]
# The prior of a mean is worth this many rows.
_MEAN_WEIGHT = 2.0


@dataclass(frozen=True)
class Pairs:
    """Who is rated with whom, by the rows of one side.

    Attributes:
        ones: float32 CSR [n, n_other].
        order: the rating behind each entry of `ones`, int64.
    """

    ones: sp.csr_matrix
    order: NDArray[np.int64]

    @staticmethod
    def of(rows: NDArray[np.int32], columns: NDArray[np.int32], n: int, n_other: int) -> "Pairs":
        """No pair may stand twice."""
        numbered = sp.csr_matrix(
            (np.arange(1.0, len(rows) + 1), (rows, columns)), shape=(n, n_other)
        )
        numbered.sort_indices()
        order = numbered.data.astype(np.int64) - 1
        numbered.data = np.ones(len(rows), np.float32)
        return Pairs(numbered, order)

    def with_values(self, values: Floats) -> sp.csr_matrix:
        """The same entries, each with its rating's value."""
        data = values[self.order].astype(np.float32)
        parts = (data, self.ones.indices, self.ones.indptr)
        return sp.csr_matrix(parts, shape=self.ones.get_shape())


@dataclass(frozen=True)
class KnownColumns:
    """A group of columns, with the smaller of its two Gram matrices taken apart.

    Attributes:
        columns: CSR [n, width].
        turned: its transpose, CSR.
        is_wide: whether the rows are fewer than the columns.
        spectrum: float64 [min(n, width)].
        directions: float32 [min(n, width), min(n, width)].
    """

    columns: sp.csr_matrix
    turned: sp.csr_matrix
    is_wide: bool
    spectrum: Floats
    directions: NDArray[np.float32]

    def ridge(self, wanted: Floats, strength: float) -> Floats:
        """The weights that make `wanted` float64 [n, k] of the columns, float64 [width, k]."""
        if self.is_wide:
            return self.turned @ self.solve(wanted, strength)
        return self.solve(self.turned @ wanted, strength)

    def solve(self, right: Floats, strength: float) -> Floats:
        """(Gram + strength)^-1 @ right, float64."""
        inside = self.directions.T @ right.astype(np.float32)
        inside = (inside / (self.spectrum + strength)[:, None]).astype(np.float32)
        return (self.directions @ inside).astype(np.float64)


def known_columns(columns: sp.csr_matrix) -> KnownColumns:
    columns = sp.csr_matrix(columns, dtype=np.float64)
    turned = columns.T.tocsr()
    n, width = columns.get_shape()
    gram = columns @ turned if n < width else turned @ columns
    spectrum, directions = np.linalg.eigh(gram.toarray())
    return KnownColumns(
        columns, turned, n < width, np.maximum(spectrum, 0.0), directions.astype(np.float32)
    )


@dataclass
class Link:
    """What a group of columns adds to the mean of each row's vector: columns @ weights.

    `strength` is the precision of the weights, relative to the vectors' own.
    """

    known: KnownColumns
    weights: Floats
    added: Floats
    strength: float = 1.0

    @staticmethod
    def start(known: KnownColumns, width: int) -> "Link":
        n, n_columns = known.columns.get_shape()
        return Link(known, np.zeros((n_columns, width)), np.zeros((n, width)))

    def draw(self, rest: Floats, root: Floats, rng: np.random.Generator) -> None:
        """New weights and strength, given what the vectors hold beside this group.

        Args:
            rest: float64 [n, width].
            root: lower Cholesky factor of the vectors' precision.
        """
        columns, turned = self.known.columns, self.known.turned
        n, n_columns = columns.get_shape()
        rest = rest + _noise(n, root, rng)
        prior = np.sqrt(self.strength) * _noise(n_columns, root, rng)
        if self.known.is_wide:
            # By Woodbury: the rows are fewer than the columns.
            prior = prior / self.strength
            self.weights = self.known.ridge(rest - columns @ prior, self.strength) + prior
        else:
            self.weights = self.known.solve(turned @ rest + prior, self.strength)
        self.added = columns @ self.weights
        squares = np.sum((self.weights @ root) ** 2)
        self.strength = rng.gamma(1.0 + self.weights.size / 2) / (1.0 + squares / 2)


@dataclass
class Side:
    """Vectors and noise of all rows of a side, and the prior of the vectors."""

    vectors: Floats
    precision_of_noise: Floats
    links: list[Link]
    mean: Floats
    precision: Floats

    @staticmethod
    def start(groups: Sequence[KnownColumns], width: int, rng: np.random.Generator) -> "Side":
        n = groups[0].columns.get_shape()[0]
        vectors = 0.1 * rng.standard_normal((n, width))
        vectors[:, -1] = 0.0
        links = [Link.start(known, width) for known in groups]
        return Side(vectors, np.ones(n), links, np.zeros(width), 10.0 * np.eye(width))

    @property
    def n(self) -> int:
        return len(self.vectors)

    def expected(self) -> Floats:
        """Each row's mean before its ratings are seen, float64 [n, width]."""
        return self.mean + sum((link.added for link in self.links), np.zeros_like(self.vectors))

    def draw_prior(self, rng: np.random.Generator) -> None:
        """Mean and precision (normal-Wishart), then the weights of each group in turn."""
        width = self.vectors.shape[1]
        own = self.vectors - (self.expected() - self.mean)
        centre = own.mean(axis=0)
        scatter = np.eye(width) + (own - centre).T @ (own - centre)
        share = self.n * _MEAN_WEIGHT / (self.n + _MEAN_WEIGHT)
        scatter += share * np.outer(centre, centre)
        for link in self.links:
            scatter += link.strength * link.weights.T @ link.weights
        freedom = width + self.n + sum(len(link.weights) for link in self.links)
        self.precision = _draw_wishart(scatter, freedom, rng)
        root: Floats = np.linalg.cholesky(self.precision).astype(np.float64)
        spread = _noise(1, root, rng)[0] / np.sqrt(self.n + _MEAN_WEIGHT)
        self.mean = self.n * centre / (self.n + _MEAN_WEIGHT) + spread
        for link in self.links:
            others = self.expected() - link.added
            link.draw(self.vectors - others, root, rng)

    def draw_vectors(
        self, pairs: Pairs, wanted: Floats, weight: Floats, others: Floats, rng: np.random.Generator
    ) -> None:
        """Every row's vector, given the other side's.

        Args:
            wanted: what own vector and other vector must make, by rating; the other's bias is off.
            weight: precision of each rating's noise.
            others: vectors of the other side, float64 [n_other, width].
        """
        width = self.vectors.shape[1]
        left, right = np.triu_indices(width)
        met = np.hstack([others[:, :-1], np.ones((len(others), 1))]).astype(np.float32)
        halves = (pairs.with_values(weight) @ (met[:, left] * met[:, right])).T
        # Rows stand last, so that all of them take a step of the decomposition at once.
        precision = np.empty((width, width, self.n))
        precision[left, right] = precision[right, left] = halves
        precision += self.precision[:, :, None]
        pull = pairs.with_values(weight * wanted) @ met + self.expected() @ self.precision
        self.vectors = _draw_normals(precision, pull.T.copy(), rng).T.copy()


def _draw_normals(precision: Floats, pull: Floats, rng: np.random.Generator) -> Floats:
    """One draw of each normal, its mean precision^-1 @ pull; float64 [width, n].

    Args:
        precision: float64 [width, width, n].
        pull: float64 [width, n]; it is written over.
    """
    width, root = len(pull), np.zeros_like(precision)
    for j in range(width):
        column = precision[j:, j] - np.einsum("akn,kn->an", root[j:, :j], root[j, :j])
        root[j:, j] = column / np.sqrt(column[0])
        pull[j] = (pull[j] - np.einsum("kn,kn->n", root[j, :j], pull[:j])) / root[j, j]
    pull += rng.standard_normal(pull.shape)
    for j in reversed(range(width)):
        later = np.einsum("kn,kn->n", root[j + 1 :, j], pull[j + 1 :])
        pull[j] = (pull[j] - later) / root[j, j]
    return pull


def _noise(n: int, root: Floats, rng: np.random.Generator) -> Floats:
    """n rows of a normal with precision root @ root.T, float64 [n, width]."""
    drawn = rng.standard_normal((len(root), n))
    return solve_triangular(root.T, drawn, lower=False).T


def _draw_wishart(scatter: Floats, freedom: int, rng: np.random.Generator) -> Floats:
    """By Bartlett's decomposition, with scale inv(scatter)."""
    scale = np.linalg.inv(scatter)
    root = np.linalg.cholesky((scale + scale.T) / 2)
    width = len(root)
    lower = np.tril(rng.standard_normal((width, width)), -1)
    lower[np.diag_indices(width)] = np.sqrt(rng.chisquare(freedom - np.arange(width)))
    return (root @ lower) @ (root @ lower).T
