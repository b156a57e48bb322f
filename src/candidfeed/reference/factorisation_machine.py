"""A Bayesian factorisation machine (myFM): the reference of every rating model.

Each rating is explained by its user, its item and its day. A user is an id, the items they rated
and what is known of them; an item is an id, the users who rated it and what is known of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.features import Bag, FeatureMap
from candidfeed.data.interactions import Interactions
from candidfeed.extras import import_extra

LIKELIHOODS = {"myfm-normal": "normal", "myfm-probit": "ordered probit"}
"""By the name in reports: how a rating comes about."""

MAX_LEVELS = 20
_RANK = 10
_N_STEPS = 300
_N_BURN_IN = 20
_DAY_S = 86_400.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Columns:
    """What the machine reads of users, or of items: one sparse row each.

    Attributes:
        matrix: float64 CSR [n, width].
        group_sizes: columns that share one prior, side by side.
    """

    matrix: sp.csr_matrix
    group_sizes: tuple[int, ...]


@dataclass(frozen=True)
class FactorisationMachine:
    """The mean over Gibbs samples.

    Attributes:
        model: myFM's own.
        users, items: their columns, as in training.
        days: whole days since 1970 that train knows, int64 ascending.
        levels: ratings that train holds, float32 ascending.
        likelihood: one of LIKELIHOODS' values.
    """

    model: Any
    users: Columns
    items: Columns
    days: NDArray[np.int64]
    levels: Floats
    likelihood: str

    @property
    def settings(self) -> dict[str, float | int | str]:
        return {
            "likelihood": self.likelihood,
            "rank": _RANK,
            "n_steps": _N_STEPS,
            "n_burn_in": _N_BURN_IN,
        }

    def predict(self, events: Interactions) -> tuple[Floats, Floats]:
        """Mean and median of each event's rating, float32 [n] both.

        The normal likelihood gives one number for both, clipped to the ratings of train.
        """
        days, blocks = _one_hot_days(events, self.days), _blocks(events, self.users, self.items)
        if self.likelihood == "normal":
            rating = self.model.predict(days, blocks)
            clipped = np.clip(rating, self.levels[0], self.levels[-1]).astype(np.float32)
            return clipped, clipped
        p_level = self.model.predict_proba(days, blocks)
        median = self.levels[(np.cumsum(p_level, axis=1) < 0.5).sum(axis=1)]
        return (p_level @ self.levels).astype(np.float32), median


def fit_factorisation_machine(
    rated: Interactions, users: Columns, items: Columns, *, likelihood: str, seed: int
) -> FactorisationMachine:
    """
    Args:
        rated: events with a rating.
        users, items: see `user_columns`, `item_columns`.
        likelihood: a name in LIKELIHOODS.

    Raises:
        ConfigError: myFM is not installed.
        ValueError: ordered probit of more than MAX_LEVELS different ratings.

    Source: Rendle, Zhang and Koren, arXiv 1905.01395 (the features); myFM's documentation.
    """
    myfm = import_extra("myfm", extra="references")
    # It has no switch for its bar, which would write over ours.
    base: Any = import_extra("myfm.base", extra="references")
    base.tqdm = partial(import_extra("tqdm", extra="references").tqdm, disable=True)
    known = rated.time_s[np.isfinite(rated.time_s)]
    days = np.unique(np.floor(known / _DAY_S).astype(np.int64))
    levels = np.unique(rated.value)
    is_normal = LIKELIHOODS[likelihood] == "normal"
    if not is_normal and len(levels) > MAX_LEVELS:
        raise ValueError(f"{len(levels)} different ratings are too many for {likelihood}")
    machine = myfm.MyFMRegressor if is_normal else myfm.MyFMOrderedProbit
    model = machine(rank=_RANK, random_seed=seed)
    model.fit(
        _one_hot_days(rated, days),
        rated.value.astype(np.float64) if is_normal else np.searchsorted(levels, rated.value),
        X_rel=_blocks(rated, users, items),
        n_iter=_N_STEPS,
        n_kept_samples=_N_STEPS - _N_BURN_IN,
        group_shapes=[len(days), *users.group_sizes, *items.group_sizes],
    )
    return FactorisationMachine(model, users, items, days, levels, LIKELIHOODS[likelihood])


def user_columns(rated: Interactions, features: FeatureMap, bag: Bag) -> Columns:
    """Ids, items rated (over the root of their number), and what is known of each user."""
    ones = np.ones(len(rated))
    touched = sp.csr_matrix((ones, (rated.user, rated.item)), (rated.n_users, rated.n_items))
    return _columns(touched, features, bag)


def item_columns(rated: Interactions, features: FeatureMap, bag: Bag) -> Columns:
    """Ids, users who rated it (over the root of their number), and what is known of each item."""
    ones = np.ones(len(rated))
    touched_by = sp.csr_matrix((ones, (rated.item, rated.user)), (rated.n_items, rated.n_users))
    return _columns(touched_by, features, bag)


def _columns(touched: sp.csr_matrix, features: FeatureMap, bag: Bag) -> Columns:
    # What was touched twice counts once.
    touched.sum_duplicates()
    touched.data[:] = 1.0
    n, n_other = touched.get_shape()
    roots = sp.diags(1.0 / np.sqrt(np.maximum(np.diff(touched.indptr), 1)))
    parts, sizes = [sp.identity(n), roots @ touched], [n, n_other]
    rows, places = np.nonzero(bag.weights)
    entries = (bag.weights[rows, places].astype(np.float64), (rows, bag.ids[rows, places]))
    known = sp.csc_matrix(entries, shape=(n, features.n_ids))
    for column in features.columns:
        # Words of titles are many and say next to nothing of ratings.
        if column.kind != "text":
            parts.append(known[:, column.offset : column.offset + column.size])
            sizes.append(column.size)
    return Columns(sp.csr_matrix(sp.hstack(parts)), tuple(sizes))


def _one_hot_days(events: Interactions, days: NDArray[np.int64]) -> sp.csr_matrix:
    """The day of each event among those that train knows; an empty row for any other."""
    known = np.flatnonzero(np.isfinite(events.time_s))
    asked = np.floor(events.time_s[known] / _DAY_S).astype(np.int64)
    inside = np.isin(asked, days)
    rows, places = known[inside], np.searchsorted(days, asked[inside])
    return sp.csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(events), len(days)))


def _blocks(events: Interactions, users: Columns, items: Columns) -> Sequence[Any]:
    block = import_extra("myfm", extra="references").RelationBlock
    return [block(events.user, users.matrix), block(events.item, items.matrix)]
