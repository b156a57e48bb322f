"""From ratings to the posterior head of a ranker, and where none is made."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.ranking import posterior
from candidfeed.ranking.inputs import RankerSpace
from candidfeed.ranking.posterior_training import MAX_RATINGS, pays
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.training import FittedRanker, fit_ranker
from candidfeed.ranking.user_state import UserStates
from candidfeed.training.predictions import rating_levels

N_USERS, N_ITEMS = 30, 12
SETTINGS = RankerSettings(
    dim=2, members=1, n_epochs=1, n_draws=4, draw_dim=2, list_length=8, lists_per_batch=4
)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "N_BURN_IN", 20)
    monkeypatch.setattr(posterior, "THINNING", 2)


def log_of(user: list[int], item: list[int], value: list[float], *, n_users: int) -> Interactions:
    return Interactions(
        np.array(user, np.int32), np.array(item, np.int32), np.array(value, np.float32),
        np.full(len(user), np.nan), n_users, N_ITEMS,
    )  # fmt: skip


def two_camps() -> Interactions:
    """Users of even rows love even items and loathe odd ones, the others the other way round.

    Each rated 8 of the 12 items.
    """
    pairs = [(u, (u + k) % N_ITEMS) for u in range(N_USERS) for k in range(8)]
    users, items = ([pair[k] for pair in pairs] for k in (0, 1))
    loved = [5.0 if (u + i) % 2 == 0 else 1.0 for u, i in pairs]
    return log_of(users, items, loved, n_users=N_USERS)


def bags(n: int) -> Bag:
    return Bag(np.zeros((n, 1), np.int32), np.zeros((n, 1), np.float32))


def states_of(known: Interactions, space: RankerSpace) -> UserStates:
    return UserStates.of(known, bags(known.n_users), space.scale)


def fit(log: Interactions, *, settings: RankerSettings = SETTINGS, seed: int = 1) -> FittedRanker:
    space = RankerSpace.fit(log, bags(N_ITEMS), 1, 4.0)
    return fit_ranker(
        space, n_users=log.n_users, n_user_ids=1, rated=log, states=states_of(log, space),
        lists=None, settings=settings, seed=seed,
    )  # fmt: skip


def expected_rating(
    ranker: FittedRanker, known: Interactions, user: list[int], item: list[int]
) -> np.ndarray:
    asked = log_of(user, item, [5.0] * len(user), n_users=known.n_users)
    levels = rating_levels(ranker, states_of(known, ranker.space), asked)
    return levels @ ranker.space.scale.levels


def without_trunk(ranker: FittedRanker) -> FittedRanker:
    """With the posterior alone in the ratings."""
    assert ranker.model.posterior is not None
    ranker.model.posterior.shares.assign(np.ones(2))
    return ranker


@pytest.fixture(scope="module")
def alone() -> FittedRanker:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "N_BURN_IN", 60)
        return without_trunk(fit(two_camps(), settings=replace(SETTINGS, n_draws=20)))


def test_the_posterior_tells_what_a_user_has_not_rated(alone: FittedRanker) -> None:
    log = two_camps()
    # Items 8 to 11 of user 0 are not rated; 8 and 10 are loved.
    found = expected_rating(alone, log, [0] * 4, [8, 9, 10, 11])
    assert found[[0, 2]].min() > 3.5 > 2.5 > found[[1, 3]].max()


def test_a_user_who_was_not_learned_from_is_told_by_what_they_rate_now(
    alone: FittedRanker,
) -> None:
    log = two_camps()
    learned = log.take(log.user != 0)
    ranker = without_trunk(fit(learned, settings=replace(SETTINGS, n_draws=20)))
    new = log_of([0] * 4, [0, 2, 1, 3], [5.0, 5.0, 1.0, 1.0], n_users=N_USERS)
    turned = log_of([0] * 4, [0, 2, 1, 3], [1.0, 1.0, 5.0, 5.0], n_users=N_USERS)
    loves_even, loves_odd = (
        expected_rating(ranker, learned.concat(each), [0, 0], [8, 9]) for each in (new, turned)
    )
    assert loves_even[0] > loves_even[1] + 0.5
    assert loves_odd[1] > loves_odd[0] + 0.5


def test_one_seed_gives_the_same_bits() -> None:
    first, again = fit(two_camps()), fit(two_camps())
    for one, same in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_pair_that_is_rated_twice_counts_as_it_was_rated_last() -> None:
    log = two_camps()
    late = log_of([0], [0], [1.0], n_users=N_USERS)
    twice, once = log.concat(late), log.take(np.arange(1, len(log))).concat(late)
    # The trunk deals both rows; the draws come from the last alone.
    first, second = (fit(each).model.posterior for each in (twice, once))
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(np.asarray(first.cuts), np.asarray(second.cuts), atol=0.5)
    assert np.isfinite(np.asarray(first.items)).all()


@pytest.mark.parametrize(
    ("user", "item", "value"),
    [
        ([0], [0], [3.0]),
        ([0, 0, 0], [0, 1, 2], [1.0, 3.0, 5.0]),
        ([0, 1, 2], [0, 0, 0], [1.0, 3.0, 5.0]),
        ([0, 1, 2, 2], [0, 1, 0, 2], [4.0, 4.0, 4.0, 4.0]),
    ],
)
def test_the_smallest_logs_give_distributions(
    user: list[int], item: list[int], value: list[float]
) -> None:
    log = log_of(user, item, value, n_users=3)
    levels = rating_levels(ranker := fit(log), states_of(log, ranker.space), log)
    assert ranker.model.posterior is not None
    assert (levels >= 0).all()
    np.testing.assert_allclose(levels.sum(axis=1), 1.0, atol=1e-5)


def test_where_it_does_not_pay_there_is_no_posterior() -> None:
    log = two_camps()
    assert pays(log)
    assert not pays(None)
    assert not pays(log.take(np.arange(0)))
    assert not pays(log.take(np.zeros(MAX_RATINGS + 1, np.int64)))
    assert not pays(replace(log, n_users=10_001))
    assert not pays(replace(log, n_users=2_501, n_items=2_501))
    assert fit(log, settings=replace(SETTINGS, n_draws=0)).model.posterior is None
