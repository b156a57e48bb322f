"""What the ranker says of rows that it did not learn from: what calibrators are fitted on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.calibration_fit import fit_calibrator
from candidfeed.ranking.inputs import RankerSpace
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.training import CandidateLists, FittedRanker, fit_ranker
from candidfeed.ranking.user_state import UserStates
from candidfeed.training.predictions import (
    USERS_AT_ONCE,
    engaged_logits,
    p_engaged,
    p_like,
    rating_levels,
)
from candidfeed.training.side_features import SideFeatures
from candidfeed.training.value import HEADS

# More rows, or a ranker that learns from more, would calibrate no better.
MAX_ROWS, MAX_LISTS, MAX_LEARNED_ROWS = 50_000, 500, 300_000
# With fewer rated rows of history, rows of train are held out instead.
MIN_HISTORY_ROWS = 1_000
_N_FOLDS = 4


@dataclass(frozen=True)
class HeldOut:
    """One entry a row: whose it is, what the model said, and what happened."""

    user: NDArray[np.int32]
    p: NDArray[np.float64]
    happened: NDArray[np.bool_]

    @staticmethod
    def none() -> "HeldOut":
        return HeldOut(np.empty(0, np.int32), np.empty(0), np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.p)

    def joined(self, other: "HeldOut") -> "HeldOut":
        """The rows of both, one after the other."""
        return HeldOut(
            np.concatenate([self.user, other.user]),
            np.concatenate([self.p, other.p]),
            np.concatenate([self.happened, other.happened]),
        )

    def calibrator(self) -> Calibrator:
        return fit_calibrator(self.p, self.happened, self.user)


def calibrators(held: Mapping[str, HeldOut], heads: Iterable[str] = HEADS) -> dict[str, Calibrator]:
    """One for each head; a head without rows is left as it is, and so are counts."""
    missing = dict.fromkeys(heads, Calibrator.as_is("no held-out rows"))
    return {**missing, **{name: one.calibrator() for name, one in held.items()}}


def likes_of(
    ranker: FittedRanker, states: UserStates, rated: Interactions, like_at: float
) -> HeldOut:
    """P(like) of these rows, as the users are known in `states`."""
    levels = rating_levels(ranker, states, rated)
    return HeldOut(rated.user, p_like(ranker, levels), rated.value >= like_at)


def engagement_of(ranker: FittedRanker, lists: CandidateLists) -> HeldOut:
    """P(engaged) of the candidates of at most MAX_LISTS lists."""
    lists, said = some_lists(lists), []
    for start in range(0, len(lists), USERS_AT_ONCE):
        said.append(engaged_logits(ranker, lists.dense[start : start + USERS_AT_ONCE]))
    return engagement_said(lists, np.concatenate(said) if said else np.empty(lists.items.shape))


def engagement_said(lists: CandidateLists, logits: NDArray[np.floating]) -> HeldOut:
    """P(engaged) of the candidates of these lists, as these logits [n, c] say it."""
    real = lists.engaged >= 0
    user = np.broadcast_to(lists.user[:, None], real.shape)
    p = p_engaged({"engaged": logits})
    return HeldOut(user[real], p[real], lists.engaged[real] > 0)


def some_lists(lists: CandidateLists) -> CandidateLists:
    """At most MAX_LISTS of them, from all along."""
    return lists.take(slice(None, None, max(1, -(-len(lists) // MAX_LISTS))))


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
    found = HeldOut.none()
    for fold in np.array_split(asked, _N_FOLDS):
        others = np.setdiff1d(np.arange(len(split.history)), fold)
        known = split.train.concat(split.history.take(others))
        states = UserStates.of(known, features.user_bag, ranker.space.scale)
        rows = split.history.take(np.sort(fold))
        found = found.joined(likes_of(ranker, states, rows, like_at))
    return found


def likes_of_cuts(
    cuts: Iterable[Split],
    features: SideFeatures,
    like_at: float,
    *,
    settings: RankerSettings,
    seed: int,
) -> HeldOut:
    """What rankers that learned the ratings of a cut's train say of those of its test.

    Args:
        cuts: of one train part; as many are taken as it takes for MAX_ROWS rows.
    """
    found = HeldOut.none()
    for cut in cuts:
        found = found.joined(_likes_of_cut(cut, features, like_at, settings=settings, seed=seed))
        if len(found) >= MAX_ROWS:
            break
    return found


def _likes_of_cut(
    cut: Split, features: SideFeatures, like_at: float, *, settings: RankerSettings, seed: int
) -> HeldOut:
    rng = np.random.default_rng(seed)
    space = RankerSpace.fit(cut.train, features.item_bag, features.item_map.n_ids, like_at)
    ranker = fit_ranker(
        space,
        n_users=len(cut.users),
        n_user_ids=features.user_map.n_ids,
        rated=_of_some_users(cut.train, MAX_LEARNED_ROWS, rng),
        states=UserStates.of(cut.train, features.user_bag, space.scale),
        lists=None,
        settings=settings,
        seed=seed,
    )
    states = UserStates.of(cut.known, features.user_bag, space.scale)
    test = _rated(cut.test)
    some = np.sort(rng.permutation(len(test))[:MAX_ROWS])
    return likes_of(ranker, states, test.take(some), like_at)


def _of_some_users(events: Interactions, n: int, rng: np.random.Generator) -> Interactions:
    """The rated rows of so many users, drawn, that there are about n at most."""
    rated = _rated(events)
    if len(rated) <= n:
        return rated
    kept = rng.random(rated.n_users) < n / len(rated)
    return rated.take(kept[rated.user])


def _rated(events: Interactions) -> Interactions:
    return events.take(np.isfinite(events.value))
