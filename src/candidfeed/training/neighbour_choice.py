"""Which neighbour model stands beside the tower: chosen on the inner cut, then fitted again."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.splits import Split
from candidfeed.retrieval.closed_forms import MAX_NEIGHBOUR_ITEMS
from candidfeed.retrieval.neighbours import Ease, ItemKnn
from candidfeed.retrieval.popularity import popular_for_strangers
from candidfeed.retrieval.user_knn import UserKnn
from candidfeed.retrieval.validation import rank
from candidfeed.training.stage_one import Chosen

# Item-kNN keeps 200 neighbours an item; above this many items they need more than 0.3 GiB.
MAX_KNN_ITEMS = 200_000
# A request asks how much its history shares with every one of the users.
MAX_KNN_USERS = 20_000
_ITEM_KNN: Mapping[str, Any] = {"k": 200, "shrink": 10.0}
_EASE_L2 = (100.0, 300.0, 1000.0)
_USER_K, _USER_SHRINKS = 100, (10.0, 100.0, 1000.0)
# What stands beside the tower decides over the head of a list.
_K = 10
# EASE is kept where people rank about as well: it is quicker to ask.
_LEAST_GAIN = 0.02

Neighbour = Ease | ItemKnn | UserKnn


def choose_neighbour(chosen: Chosen) -> Neighbour | None:
    """The model that ranks the validation part best, fitted on the inner cut's train.

    EASE or, where it is better by _LEAST_GAIN and users are few, user-kNN; in a larger catalogue
    item-kNN, and in a very large one none.
    """
    inner = chosen.inner
    n_items = len(inner.items)
    if n_items > MAX_NEIGHBOUR_ITEMS:
        fits = n_items <= MAX_KNN_ITEMS
        return ItemKnn.fit(inner.train, known=inner.known, **_ITEM_KNN) if fits else None
    best, reached = None, 0.0
    for model in _tried(inner):
        ndcg = rank(model.scores, chosen.asked, ndcg_k=_K).ndcg
        needed = 1.0 + _LEAST_GAIN * (isinstance(model, UserKnn) and isinstance(best, Ease))
        if best is None or ndcg > reached * needed:
            best, reached = model, ndcg
    return best


def fitted_again(model: Neighbour | None, split: Split) -> Neighbour | None:
    """The same kind of model with the same settings, fitted on this split's train."""
    if model is None:
        return None
    return type(model).fit(split.train, known=split.known, **dict[str, Any](model.settings))


def scores_of_pasts(
    model: Neighbour, pasts: sp.csr_matrix, users: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Scores of all items for pasts other than those that the model knows, float32 [b, n_items].

    Args:
        pasts: what had been touched, ones in CSR [b, n_items].
        users: whose past each is, int32 [b].
    """
    if isinstance(model, UserKnn):
        scores = model.neighbours.scores_of(pasts, users)
        return popular_for_strangers(scores, pasts, model.popular)
    return replace(model, known=pasts).scores(np.arange(pasts.get_shape()[0], dtype=np.int32))


def _tried(inner: Split) -> Iterator[Neighbour]:
    for l2 in _EASE_L2:
        yield Ease.fit(inner.train, known=inner.known, l2=l2)
    if np.count_nonzero(np.diff(inner.train.matrix.indptr)) <= MAX_KNN_USERS:
        for shrink in _USER_SHRINKS:
            yield UserKnn.fit(inner.train, known=inner.known, k=_USER_K, shrink=shrink)
