"""User neighbours: what people with much the same history touched. Training and serving share it.

Unlike item-to-item weights it is no linear function of a history: with the history the neighbours
change. A heavy `shrink` counts how much is shared and hardly by how many a person's events exceed
it, so that the neighbours are people of whom much is known.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.popularity import Popular, popular_for_strangers
from candidfeed.retrieval.top_k import best_sets

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]


@dataclass(frozen=True)
class UserNeighbours:
    """Who touched what, and how alike two people are.

    sim(u, v) = |items of u and v| / (sqrt(|items of u| |items of v|) + shrink). The k most similar
    others speak, equal ones by lower row; an item's score is the share of them, weighted by
    similarity, who touched it.

    Attributes:
        touched: of all users that are learned from, ones in float32 CSR [n_users, n_items].
        k: how many neighbours speak.
        shrink: what the denominator is raised by.

    Source: Ferrari Dacrema et al., RecSys 2019, section 3.1 (UserKNN, binary data).
    """

    touched: sp.csr_matrix
    k: int
    shrink: float

    @property
    def are_none(self) -> bool:
        """Whether nobody speaks for anything."""
        return not self.touched.nnz

    @cached_property
    def _users_of(self) -> sp.csr_matrix:
        return self.touched.T.tocsr()

    @cached_property
    def _n_items_of(self) -> NDArray[np.float64]:
        return np.diff(self.touched.indptr).astype(np.float64)

    def scores_of(self, asked: sp.csr_matrix, own_rows: NDArray[np.integer]) -> Floats:
        """float32 [b, n_items]; a row does not depend on the others.

        Args:
            asked: what each person touched, ones in CSR [b, n_items].
            own_rows: who they are, int [b]: no one is their own neighbour. A row that `touched`
                does not have is a stranger's.
        """
        in_common: Any = asked @ self._users_of
        summed: Any = self._say(in_common.toarray(), np.diff(asked.indptr), own_rows) @ self.touched
        return summed.toarray().astype(np.float32)

    def scores(self, touched: Rows, own_row: int) -> Floats:
        """Of one person who touched these items, each once: the bits of `scores_of`, [n_items]."""
        items = np.sort(touched)
        parts = (np.ones(len(items), np.float32), items, np.array([0, len(items)]))
        asked = sp.csr_matrix(parts, shape=(1, self.touched.get_shape()[1]))
        return self.scores_of(asked, np.array([own_row]))[0]

    def contributions(self, touched: Rows, candidates: Rows, own_row: int) -> Floats:
        """By how much each score falls if an item had not been touched, float32 [touched, c]."""
        people: Any = self._users_of[touched]
        each = people.toarray()
        in_common = each.sum(axis=0)
        n_own = np.full(len(touched) + 1, len(touched) - 1)
        n_own[0] += 1
        own_rows = np.full(len(n_own), own_row)
        say = self._say(np.vstack([in_common, in_common - each]), n_own, own_rows)
        who: Any = self._users_of[candidates]
        scores: Any = (say @ who.T).toarray()
        return (scores[0] - scores[1:]).astype(np.float32)

    def _say(
        self, in_common: Floats, n_own: NDArray[np.integer], own_rows: NDArray[np.integer]
    ) -> sp.csr_matrix:
        """The say of each neighbour, float64 CSR [b, n_users]; a row sums to 1, or is empty.

        Args:
            in_common: items that each person shares with each user, [b, n_users].
            n_own: items of each person, int [b].
        """
        size = np.sqrt(n_own[:, None] * self._n_items_of) + self.shrink
        similar = np.divide(in_common, size, out=np.zeros_like(size), where=size > 0)
        # Of equal ones the last bits of a root must not decide.
        similar = np.round(similar, 12)
        is_known = own_rows < similar.shape[1]
        similar[np.flatnonzero(is_known), own_rows[is_known]] = 0.0
        best = best_sets(similar, self.k)
        found = np.take_along_axis(similar, best, axis=1)
        sums = found.sum(axis=1, keepdims=True)
        found = np.divide(found, sums, out=np.zeros_like(found), where=sums > 0)
        ends = np.arange(len(best) + 1) * best.shape[1]
        say = sp.csr_matrix((found.ravel(), best.ravel(), ends), shape=similar.shape)
        say.eliminate_zeros()
        return say


@dataclass(frozen=True)
class UserKnn:
    """User neighbours with what is known of the users who are asked for.

    A user of whom nothing is known gets the popular order.

    Attributes:
        known: what each user touched, CSR [n_users, n_items].
    """

    neighbours: UserNeighbours
    known: sp.csr_matrix
    popular: Popular

    @classmethod
    def fit(cls, train: Interactions, *, known: Interactions, k: int, shrink: float) -> "UserKnn":
        """
        Raises:
            ValueError: k < 1 or shrink < 0.
        """
        if k < 1 or shrink < 0:
            raise ValueError(f"user-knn needs k >= 1 and shrink >= 0, not {k} and {shrink}")
        neighbours = UserNeighbours(train.matrix, k, shrink)
        return cls(neighbours, known.matrix, Popular.fit(train))

    @property
    def settings(self) -> dict[str, Any]:
        return {"k": self.neighbours.k, "shrink": self.neighbours.shrink}

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]."""
        touched = self.known[users]
        scores = self.neighbours.scores_of(touched, users)
        return popular_for_strangers(scores, touched, self.popular)
