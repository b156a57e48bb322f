"""The fitted stages as scorers of all items: what the evaluation asks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.action_inputs import expected_actions
from candidfeed.ranking.taste import expected_rating, median_rating
from candidfeed.training.candidates import Candidates, dense_of
from candidfeed.training.predictions import (
    USERS_AT_ONCE,
    Heads,
    candidate_heads,
    engaged_logits,
    p_engaged,
    p_like,
    rating_levels,
)
from candidfeed.training.two_stage import TwoStage
from candidfeed.training.value import ENGAGED, LIKED, value

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RatingPrediction:
    """What the ranker says of rated rows, aligned with them.

    Attributes:
        mean: expected rating, float32 [n]; the least squared error.
        median: float32 [n]; the least absolute error.
        p_like: calibrated probability of a rating that counts as liked, float64 [n].
        raw_p_like: as the model says it.
    """

    mean: Floats
    median: Floats
    p_like: NDArray[np.float64]
    raw_p_like: NDArray[np.float64]


@dataclass(frozen=True)
class TwoStageScorer:
    """The served order: the ranker's value over the candidates, then retrieval's order.

    Items that the user is known to have touched are never candidates.
    """

    pair: TwoStage

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]; candidates lie above all others."""
        pair, parts = self.pair, []
        assert pair.settings.quotas is not None
        for start in range(0, len(users), USERS_AT_ONCE):
            part = users[start : start + USERS_AT_ONCE]
            found = pair.sources.propose(part, pair.settings.quotas)
            parts.append(candidates_first(found, _values(pair, part, found)))
        return np.concatenate(parts)


def candidates_first(found: Candidates, values: Floats) -> Floats:
    """Scores of all items: the candidates by their values, all others below in retrieval's order.

    Args:
        values: float32 [b, c].

    Returns:
        float32 [b, n_items].
    """
    least = np.minimum(values.min(axis=1, keepdims=True), 0.0)
    rest = found.tower_rows - found.tower_rows.max(axis=1, keepdims=True) + least - 1.0
    joined = np.pad(rest, ((0, 0), (0, 1)))
    joined[np.arange(len(values))[:, None], found.items] = values
    return joined[:, :-1]


@dataclass(frozen=True)
class RankEverything:
    """The ranker's value of every item: what a list would be without retrieval."""

    pair: TwoStage

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]."""
        parts = []
        for start in range(0, len(users), USERS_AT_ONCE):
            part = users[start : start + USERS_AT_ONCE]
            parts.append(_values(self.pair, part, self.pair.sources.everything(part)))
        return np.concatenate(parts)


def _values(pair: TwoStage, users: NDArray[np.int32], found: Candidates) -> Floats:
    """What the ranker makes of the candidates, float32 [b, c]."""
    dense = dense_of(pair.ranker.space, pair.states.take(users), found)
    weights = pair.settings.value_weights
    assert weights is not None
    if not any(weight for name, weight in weights.items() if name != ENGAGED):
        # The taste trunk takes most of the time, and would count nothing.
        engaged = p_engaged({ENGAGED: engaged_logits(pair.ranker, dense)})
        return value({ENGAGED: engaged}, weights, pair.calibration)
    return value_of(pair, candidate_heads(pair.ranker, pair.states, users, found.items, dense))


def value_of(pair: TwoStage, heads: Heads) -> Floats:
    """The published weighted sum of the calibrated heads, float32 [b, c]."""
    expected = {ENGAGED: p_engaged(heads), LIKED: p_like(pair.ranker, heads["rating"])}
    space = pair.ranker.space.actions
    if space is not None:
        expected |= expected_actions(heads["actions"], space)
    assert pair.settings.value_weights is not None
    return value(expected, pair.settings.value_weights, pair.calibration)


def predict_ratings(pair: TwoStage, events: Interactions) -> RatingPrediction:
    """Ratings of these (user, item, time) rows, in their order."""
    scale = pair.ranker.space.scale
    levels = rating_levels(pair.ranker, pair.states, events)
    raw = p_like(pair.ranker, levels)
    return RatingPrediction(
        mean=expected_rating(levels, scale.levels),
        median=median_rating(levels, scale.levels),
        p_like=pair.calibration[LIKED](raw),
        raw_p_like=raw,
    )
