"""Negatives that the model itself ranks high, from our own index: what it has to tell apart."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.index.vector_index import VectorIndex
from candidfeed.retrieval.large.stream_batches import StreamBatches

# Who are asked, and which of their ranks are taken: the very best are what they want next.
_USERS = 2_048
_FIRST_RANK, _LAST_RANK = 50, 500

Floats = NDArray[np.float32]


class Vectors(Protocol):
    """A model of two towers as it is when asked."""

    @property
    def item_vectors(self) -> Floats:
        """float32 [n_items, dim]."""
        ...

    def user_vectors(self, users: NDArray[np.integer]) -> Floats:
        """float32 [len(users), dim]."""
        ...


@dataclass(frozen=True)
class HardNegatives:
    """Keeps `batches` in negatives that `model` ranks high as it is at the time."""

    model: Vectors
    batches: StreamBatches
    train: Interactions
    seed: int

    def renew(self) -> None:
        self.batches.mix_in(mine(self.model, self.train, seed=self.seed))


def mine(model: Vectors, train: Interactions, *, seed: int) -> NDArray[np.int32]:
    """Items that some users rank high and have not touched, int32 [n]; once for each such user.

    Of the items of train alone: nobody had a chance to touch the others.
    """
    touched = np.unique(train.item)
    users = np.unique(train.user)
    if len(users) > _USERS:
        users = np.sort(np.random.default_rng(seed).choice(users, _USERS, replace=False))
    vectors = model.user_vectors(users)
    index = VectorIndex.build(
        np.ascontiguousarray(model.item_vectors[touched]), queries=vectors, seed=seed
    )
    own = np.split(train.matrix[users].indices, train.matrix[users].indptr[1:-1])
    found = [
        index.search(vector, _LAST_RANK, deny=np.searchsorted(touched, items))
        for vector, items in zip(vectors, own, strict=True)
    ]
    return touched[np.concatenate([one.rows[_FIRST_RANK:] for one in found])]
