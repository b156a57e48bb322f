"""What the ranker says of rows that it did not learn from: what calibrators are fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.calibration_fit import fit_calibrator
from candidfeed.ranking.inputs import RankerSpace, UserStates
from candidfeed.ranking.training import CandidateLists, FittedRanker, RankerSettings, fit_ranker
from candidfeed.training.predictions import (
    USERS_AT_ONCE,
    candidate_heads,
    p_engaged,
    p_like,
    rating_levels,
)
from candidfeed.training.side_features import SideFeatures

ENGAGED, LIKED = "engaged", "liked"
HEADS = (ENGAGED, LIKED)
# More rows, or a ranker that learns from more, would calibrate no better.
MAX_ROWS, MAX_LISTS, MAX_LEARNED_ROWS, MAX_LEARNED_LISTS = 50_000, 500, 300_000, 2_000
# With fewer rated rows of history, rows of train are held out instead.
MIN_HISTORY_ROWS = 1_000
_N_FOLDS = 4
_HELD_SHARE = 3


@dataclass(frozen=True)
class HeldOut:
    """One entry a row: whose it is, what the model said, and what happened."""

    user: NDArray[np.int32]
    p: NDArray[np.float64]
    happened: NDArray[np.bool_]

    def calibrator(self) -> Calibrator:
        return fit_calibrator(self.p, self.happened, self.user)


def calibrators(held: Mapping[str, HeldOut]) -> dict[str, Calibrator]:
    """One for each head; a head without rows is left as it is."""
    nothing = Calibrator.as_is("no held-out rows")
    return {name: held[name].calibrator() if name in held else nothing for name in HEADS}


def likes_of(
    ranker: FittedRanker, states: UserStates, rated: Interactions, like_at: float
) -> HeldOut:
    """P(like) of these rows, as the users are known in `states`."""
    levels = rating_levels(ranker, states, rated)
    return HeldOut(rated.user, p_like(ranker, levels), rated.value >= like_at)


def engagement_of(ranker: FittedRanker, states: UserStates, lists: CandidateLists) -> HeldOut:
    """P(engaged) of the candidates of at most MAX_LISTS lists."""
    lists = _take(lists, np.arange(len(lists))[:: max(1, -(-len(lists) // MAX_LISTS))])
    said, real = [], lists.engaged >= 0
    for start in range(0, len(lists), USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        columns = lists.user[part], lists.items[part], lists.dense[part]
        said.append(p_engaged(candidate_heads(ranker, states, *columns)))
    user = np.broadcast_to(lists.user[:, None], real.shape)
    p = np.concatenate(said) if said else np.empty(real.shape)
    return HeldOut(user[real], p[real], lists.engaged[real] > 0)


def likes_of_history(
    split: Split, ranker: FittedRanker, features: SideFeatures, like_at: float, *, seed: int
) -> HeldOut | None:
    """P(like) of what is known of the test users but was not learned from; None where too little.

    A fold of it is asked about while the rest is known. No other rows are as near to the test.
    """
    rated = np.flatnonzero(np.isfinite(split.history.value))
    rng = np.random.default_rng(seed)
    asked = rng.permutation(rated)[:MAX_ROWS]
    if len(asked) < MIN_HISTORY_ROWS:
        return None
    found = []
    for fold in np.array_split(asked, _N_FOLDS):
        others = np.setdiff1d(np.arange(len(split.history)), fold)
        known = split.train.concat(split.history.take(others))
        states = UserStates.of(known, features.user_bag, ranker.space.scale)
        found.append(likes_of(ranker, states, split.history.take(np.sort(fold)), like_at))
    return HeldOut(*(np.concatenate(c) for c in zip(*map(_columns, found), strict=True)))


def of_inner_cut(
    inner: Split,
    features: SideFeatures,
    lists: CandidateLists,
    like_at: float | None,
    *,
    settings: RankerSettings,
    with_likes: bool,
    seed: int,
) -> dict[str, HeldOut]:
    """What a ranker that learned from a part of train says of the rest.

    Args:
        lists: candidates of the inner cut's test users; a third of them is asked about.
        with_likes: also learn the ratings of the inner cut's train, and ask about those of its
            test.
    """
    rng = np.random.default_rng(seed)
    space = RankerSpace.fit(inner.train, features.item_bag, features.item_map.n_ids, like_at)
    order = rng.permutation(len(lists))
    asked, learned = order[::_HELD_SHARE], np.setdiff1d(order, order[::_HELD_SHARE])
    rated = _of_some_users(inner.train, MAX_LEARNED_ROWS, rng) if with_likes else None
    ranker = fit_ranker(
        space,
        n_users=len(inner.users),
        n_user_ids=features.user_map.n_ids,
        rated=rated,
        states=UserStates.of(inner.train, features.user_bag, space.scale),
        lists=_take(lists, learned[:MAX_LEARNED_LISTS]),
        settings=settings,
        seed=seed,
    )
    states = UserStates.of(inner.known, features.user_bag, space.scale)
    held = {ENGAGED: engagement_of(ranker, states, _take(lists, np.sort(asked)))}
    if with_likes and like_at is not None:
        test = _rated(inner.test)
        some = np.sort(rng.permutation(len(test))[:MAX_ROWS])
        held[LIKED] = likes_of(ranker, states, test.take(some), like_at)
    return held


def _of_some_users(events: Interactions, n: int, rng: np.random.Generator) -> Interactions:
    """The rated rows of so many users, drawn, that there are about n at most."""
    rated = _rated(events)
    if len(rated) <= n:
        return rated
    kept = rng.random(rated.n_users) < n / len(rated)
    return rated.take(kept[rated.user])


def _rated(events: Interactions) -> Interactions:
    return events.take(np.isfinite(events.value))


def _columns(held: HeldOut) -> tuple[NDArray[np.generic], ...]:
    return held.user, held.p, held.happened


def _take(lists: CandidateLists, places: NDArray[np.integer]) -> CandidateLists:
    return CandidateLists(
        lists.user[places], lists.items[places], lists.dense[places], lists.engaged[places]
    )
