"""The fitted stages as scorers of all items: what the evaluation asks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import RankerSpace, UserState, ranker_inputs
from candidfeed.ranking.ranker import Ranker, expected_rating, median_rating
from candidfeed.ranking.training import RankerBatches
from candidfeed.training.candidates import Candidates, dense_of
from candidfeed.training.two_stage import TwoStage

_USERS_AT_ONCE = 32

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RatingPrediction:
    """What the ranker says of rated rows, aligned with them.

    Attributes:
        mean: expected rating, float32 [n]; the least squared error.
        median: float32 [n]; the least absolute error.
        p_like: probability of a rating that counts as liked, float32 [n].
    """

    mean: Floats
    median: Floats
    p_like: Floats


@dataclass(frozen=True)
class TwoStageScorer:
    """The served order: the ranker's value over the candidates, then retrieval's order.

    Items that the user is known to have touched are never candidates.
    """

    pair: TwoStage

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]; candidates lie above 0, all others below."""
        pair, parts = self.pair, []
        assert pair.settings.quotas is not None
        for start in range(0, len(users), _USERS_AT_ONCE):
            part = users[start : start + _USERS_AT_ONCE]
            found = pair.sources.propose(part, pair.settings.quotas)
            values = _values(pair, part, found)
            rest = found.tower_rows - found.tower_rows.max(axis=1, keepdims=True) - 1.0
            joined = np.pad(rest, ((0, 0), (0, 1)))
            joined[np.arange(len(part))[:, None], found.items] = values
            parts.append(joined[:, :-1])
        return np.concatenate(parts)


@dataclass(frozen=True)
class RankEverything:
    """The ranker's value of every item: what a list would be without retrieval."""

    pair: TwoStage

    def scores(self, users: NDArray[np.int32]) -> Floats:
        """float32 [len(users), n_items]."""
        parts = []
        for start in range(0, len(users), _USERS_AT_ONCE):
            part = users[start : start + _USERS_AT_ONCE]
            parts.append(_values(self.pair, part, self.pair.sources.everything(part)))
        return np.concatenate(parts)


def _values(pair: TwoStage, users: NDArray[np.int32], found: Candidates) -> Floats:
    """What the ranker makes of the candidates, float32 [b, c]."""
    space, states = pair.ranker.space, pair.states.take(users)
    dense = dense_of(space, states, found)
    return value_of(pair, _predict(pair.ranker.model, space, states, found.items, dense))


def value_of(pair: TwoStage, heads: dict[str, Floats]) -> Floats:
    """The published weighted sum of the heads, float32 [b, c]; it lies above 0."""
    weights, liked = pair.settings.value_weights, pair.ranker.space.scale.liked
    p_engaged = 1.0 / (1.0 + np.exp(-heads["engaged"].astype(np.float64)))
    p_like = heads["rating"][..., liked].sum(axis=-1)
    return (weights["engaged"] * p_engaged + weights["liked"] * p_like).astype(np.float32)


def predict_ratings(pair: TwoStage, events: Interactions) -> RatingPrediction:
    """Ratings of these (user, item, time) rows, in their order."""
    space = pair.ranker.space
    levels = _predict_levels(pair, events)
    return RatingPrediction(
        mean=expected_rating(levels, space.scale.levels),
        median=median_rating(levels, space.scale.levels),
        p_like=np.clip(levels[:, space.scale.liked].sum(axis=1), 0.0, 1.0),
    )


def _predict_levels(pair: TwoStage, events: Interactions) -> Floats:
    """Distribution over rating levels, float32 [n, levels]."""
    settings = pair.ranker.settings
    batches = RankerBatches(
        pair.ranker.space, rated=events, states=pair.states, lists=None, settings=settings, seed=0
    )
    levels = np.zeros((len(events), len(pair.ranker.space.scale.levels)), np.float32)
    for step in range(len(batches)):
        dealt, inputs = batches.asked(step)
        predicted = pair.ranker.model.predict_on_batch(inputs)["rating"]
        levels[dealt[dealt >= 0]] = predicted[dealt >= 0]
    return levels


def _predict(
    model: Ranker, space: RankerSpace, states: UserState, items: NDArray[np.int32], dense: Floats
) -> dict[str, Floats]:
    n = len(items)
    full = np.resize(np.arange(n), _USERS_AT_ONCE)
    inputs = ranker_inputs(space, states.take(full), items[full], dense[full])
    return {name: out[:n] for name, out in model.predict_on_batch(inputs).items()}
