"""The strong references beside our own models: LightGBM for lists, myFM for ratings.

Both are optional packages. They learn from what our ranker learns from, and answer what it answers.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.reference.boosted_trees import (
    N_PARTS,
    OBJECTIVES,
    BoostedTrees,
    fit_boosted_trees,
)
from candidfeed.reference.factorisation_machine import (
    LIKELIHOODS,
    MAX_LEVELS,
    fit_factorisation_machine,
    item_columns,
    user_columns,
)
from candidfeed.training.candidates import dense_of
from candidfeed.training.scorers import candidates_first
from candidfeed.training.two_stage import TwoStage, rated_rows

# More rated rows take the Gibbs sampler hours.
MAX_RATED_ROWS = 2_000_000

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BoostedScorer:
    """The candidates of our own first stage, ordered by boosted trees."""

    pair: TwoStage
    trees: BoostedTrees

    @property
    def settings(self) -> Mapping[str, float | int | str]:
        return self.trees.settings

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]; candidates lie above 0, all others below."""
        pair, parts = self.pair, []
        assert pair.settings.quotas is not None
        for start in range(0, len(users), pair.sources.users_at_once):
            part = users[start : start + pair.sources.users_at_once]
            found = pair.sources.propose(part, pair.settings.quotas)
            dense = dense_of(pair.ranker.space, pair.states.take(part), found)
            scores = self.trees.scores(dense)
            parts.append(candidates_first(found, scores - scores.min() + 1.0))
        return np.concatenate(parts)


@dataclass(frozen=True)
class RatingReference:
    """What a reference says of rated rows, aligned with them.

    Attributes:
        mean, median: float32 [n].
        seconds: that its fit took.
        settings: that it was fitted with.
    """

    mean: Floats
    median: Floats
    seconds: float
    settings: Mapping[str, float | int | str]


def ranking_references(pair: TwoStage, *, seed: int) -> dict[str, tuple[BoostedScorer, float]]:
    """Fits each of OBJECTIVES on the lists that our ranker learned from, with all dense features.

    Nothing where there are fewer lists than it takes to hold some out.

    Returns:
        By name: the scorer, and the seconds that choosing and the fit took.
    """
    fitted = {}
    for name in OBJECTIVES if len(pair.lists) >= N_PARTS else ():
        start = time.perf_counter()
        trees = fit_boosted_trees(
            pair.lists.dense, pair.lists.engaged, names=DENSE_FEATURES, objective=name, seed=seed
        )
        fitted[name] = (BoostedScorer(pair, trees), time.perf_counter() - start)
    return fitted


def rating_references(
    pair: TwoStage, asked: Interactions, like_at: float, *, seed: int
) -> dict[str, RatingReference]:
    """Fits each of LIKELIHOODS on the ratings of train, and asks it for the rows of `asked`.

    Ordered probit is left out where ratings take more than MAX_LEVELS values, and all of them where
    train holds more than MAX_RATED_ROWS ratings or none.
    """
    rated = rated_rows(pair.split.train, like_at)
    if rated is None or not 0 < len(rated) <= MAX_RATED_ROWS:
        return {}
    features = pair.features
    users = user_columns(rated, features.user_map, features.user_bag)
    items = item_columns(rated, features.item_map, features.item_bag)
    predicted = {}
    for name, likelihood in LIKELIHOODS.items():
        if likelihood != "normal" and len(np.unique(rated.value)) > MAX_LEVELS:
            continue
        start = time.perf_counter()
        model = fit_factorisation_machine(rated, users, items, likelihood=name, seed=seed)
        took = time.perf_counter() - start
        predicted[name] = RatingReference(*model.predict(asked), took, model.settings)
    return predicted
