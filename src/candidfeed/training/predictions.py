"""Ask a fitted ranker: about rated rows, and about candidates."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import ranker_inputs
from candidfeed.ranking.taste_training import RankerBatches
from candidfeed.ranking.training import FittedRanker
from candidfeed.ranking.user_state import UserStates

# One shape, so that the model is compiled once.
USERS_AT_ONCE = 32

Floats = NDArray[np.float32]
Heads = dict[str, Floats]


def rating_levels(ranker: FittedRanker, states: UserStates, events: Interactions) -> Floats:
    """Distribution over rating levels of these (user, item, time) rows, float32 [n, levels]."""
    batches = RankerBatches(
        ranker.space, rated=events, states=states, settings=ranker.settings, seed=0
    )
    levels = np.zeros((len(events), len(ranker.space.scale.levels)), np.float32)
    for step in range(len(batches)):
        dealt, inputs = batches.asked(step)
        predicted = ranker.model.predict_on_batch(inputs)["rating"]
        levels[dealt[dealt >= 0]] = predicted[dealt >= 0]
    return levels


def candidate_heads(
    ranker: FittedRanker,
    states: UserStates,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    dense: Floats,
) -> Heads:
    """The outputs of `Ranker` for at most USERS_AT_ONCE users, whose candidates are [b, c]."""
    n = len(items)
    full = np.resize(np.arange(n), USERS_AT_ONCE)
    inputs = ranker_inputs(ranker.space, states.take(users[full]), items[full], dense[full])
    return {name: out[:n] for name, out in ranker.model.predict_on_batch(inputs).items()}


def engaged_logits(ranker: FittedRanker, dense: Floats) -> Floats:
    """The engagement head alone, for at most USERS_AT_ONCE users: [b, c, f] to [b, c]."""
    n = len(dense)
    full = np.resize(np.arange(n), USERS_AT_ONCE)
    said: Any = ranker.model.engaged(dense[full])
    return np.asarray(said)[:n]


def p_engaged(heads: Heads) -> NDArray[np.float64]:
    """As the model says it, [b, c]."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-heads["engaged"].astype(np.float64)))


def p_like(ranker: FittedRanker, levels: Floats) -> NDArray[np.float64]:
    """As the model says it, from distributions over rating levels: [..., levels] to [...]."""
    summed = levels[..., ranker.space.scale.liked].sum(axis=-1, dtype=np.float64)
    return np.clip(summed, 0.0, 1.0)
