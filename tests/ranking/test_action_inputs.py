"""What action heads read: rates that places do not move, and tastes that a refit does not turn."""

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.impressions import Impressions
from candidfeed.data.interactions import Interactions
from candidfeed.data.tables import Label
from candidfeed.ranking.action_inputs import (
    N_RECENT,
    N_TASTES,
    ActionSpace,
    Rates,
    Recent,
    expected_actions,
    expected_of_anybody,
    leading_directions,
)
from candidfeed.ranking.rating_scale import RatingScale
from candidfeed.ranking.user_state import UserStates

CLICK, SECONDS = Label("click", ("click",)), Label("seconds", ("beat",), counted=True)


def shown(rng: np.random.Generator, n: int, *, n_users: int = 4, n_items: int = 3) -> Impressions:
    """At the second place half as many clicks as at the first, for all items alike."""
    position = rng.integers(1, 3, n).astype(np.int32)
    clicked = rng.random(n) < 0.4 / position
    return Impressions(
        user=np.sort(rng.integers(n_users, size=n)).astype(np.int32),
        # The last item stands at the second place always.
        item=np.where(position == 2, n_items - 1, rng.integers(n_items - 1, size=n)).astype(
            np.int32
        ),
        time_s=np.arange(n, dtype=np.float64),
        position=position,
        followed=np.stack([clicked, 10.0 * clicked], axis=-1).astype(np.float32),
    )


@pytest.fixture
def space() -> ActionSpace:
    older = shown(np.random.default_rng(0), 20_000)
    return ActionSpace.of(
        older, (CLICK, SECONDS), n_users=4, item_vectors=np.eye(3, 5, dtype=np.float32)
    )


def test_an_item_that_always_stood_below_is_not_taken_for_a_worse_one(space: ActionSpace) -> None:
    assert space.n_positions == 2
    np.testing.assert_allclose(space.by_position[1:, 0], [0.4, 0.2], atol=0.02)
    np.testing.assert_allclose(space.items.lift, 0.0, atol=0.08)


def test_a_user_who_is_not_known_has_the_rates_of_nobody(space: ActionSpace) -> None:
    recent = Recent(np.full((1, 2), 3, np.int32), np.zeros((1, 2)), np.zeros((1, 2)))
    items, position = np.array([[0, 2]]), np.ones((1, 2), np.int32)
    found = space.inputs(np.array([99]), items, position, recent)
    assert not found["rates"][0, :, 3:].any()
    assert found["rates"].shape == (1, 2, 2 * (2 + 1))
    assert not found["recent_taste"].any()


def test_places_below_the_last_known_one_count_as_it(space: ActionSpace) -> None:
    recent = Recent(np.full((1, 2), 3, np.int32), np.zeros((1, 2)), np.zeros((1, 2)))
    found = space.inputs(np.array([0]), np.array([[0]]), np.array([[40]]), recent)
    assert found["position"].tolist() == [[2]]


@pytest.mark.parametrize("burst", [1.0, 10.0])
@pytest.mark.parametrize("shape", [2.0, 8.0])
def test_rates_are_drawn_in_by_as_much_as_they_differ(shape: float, burst: float) -> None:
    rng, n_items = np.random.default_rng(3), 10_000
    rate = 0.02 * rng.gamma(shape, 1 / shape, n_items)
    row = np.repeat(np.arange(n_items), rng.integers(20, 400, n_items))
    came = (burst * (rng.random(len(row)) < rate[row]))[:, None].astype(np.float32)
    expected = np.full_like(came, burst * 0.02)
    found = Rates.of(row, came, expected, n_items).lift[:, 0]
    # Poisson counts, gamma rates: the posterior's mean adds the shape to both, in events.
    sums = [np.bincount(row, one[:, 0] / burst) for one in (came, expected)]
    best = np.log((sums[0] + shape) / (sums[1] + shape))
    assert np.abs(found - best).mean() < 0.1 * np.abs(best).mean()


def test_a_label_that_always_or_never_comes_has_the_same_rate_everywhere() -> None:
    row = np.repeat(np.arange(3), 4)
    for came in (np.ones((12, 1), np.float32), np.zeros((12, 1), np.float32)):
        np.testing.assert_array_equal(Rates.of(row, came, came, 5).lift, np.zeros((5, 1)))


def test_rates_that_do_not_differ_are_drawn_in_entirely() -> None:
    rng = np.random.default_rng(3)
    row = np.repeat(np.arange(500), 100)
    came = (rng.random((len(row), 1)) < 0.2).astype(np.float32)
    lift = Rates.of(row, came, np.full_like(came, 0.2), 500).lift
    unshrunk = np.log(np.bincount(row, came[:, 0]) / 20.0)
    assert np.abs(lift).mean() < 0.4 * np.abs(unshrunk).mean()


def test_without_an_older_impression_every_rate_is_that_of_nobody() -> None:
    nothing = shown(np.random.default_rng(0), 0)
    space = ActionSpace.of(nothing, (CLICK, SECONDS), n_users=4, item_vectors=np.eye(3))
    assert not space.items.lift.any()
    assert np.isfinite(space.by_position).all()


def test_the_latest_events_are_compared_with_and_know_their_age() -> None:
    n = N_RECENT + 3
    log = Interactions(
        user=np.zeros(n, np.int32),
        item=np.arange(n, dtype=np.int32),
        value=np.full(n, np.nan, np.float32),
        time_s=np.arange(n) * 86_400.0,
        n_users=2,
        n_items=n,
    )
    bag = Bag(np.zeros((2, 1), np.int32), np.zeros((2, 1), np.float32))
    states = UserStates.of(log, bag, RatingScale.of(log.value, None))
    recent = Recent.of(states.take(np.array([0, 1])), n_items=n)
    assert recent.items[0].tolist() == list(range(3, n))
    assert (recent.items[1] == n).all()
    assert recent.log_days[0, -1] == 0.0
    assert recent.log_days[0, 0] == pytest.approx(np.log1p(N_RECENT - 1))


def test_cosines_do_not_change_where_stage_one_is_turned() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 40)).astype(np.float32) * (0.8 ** np.arange(40))
    turn, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    one, other = (leading_directions(v.astype(np.float32)) for v in (vectors, vectors @ turn))
    assert one.shape == (50, N_TASTES)
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-3)
    whole = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(one @ one.T, whole @ whole.T, atol=0.02)


def test_a_probability_is_at_most_one_and_a_count_may_be_more(space: ActionSpace) -> None:
    found = expected_actions(np.log(np.array([[2.0, 7.0]], np.float32)), space)
    np.testing.assert_allclose(found["click"], [1.0])
    np.testing.assert_allclose(found["seconds"], [7.0], rtol=1e-6)


def test_what_is_expected_of_anybody_is_the_items_rate_at_the_first_place(
    space: ActionSpace,
) -> None:
    found = expected_of_anybody(space, space.items.lift[[0, 2]])
    np.testing.assert_allclose(found["click"], [0.4, 0.4], rtol=0.1)
    np.testing.assert_allclose(found["seconds"], [4.0, 4.0], rtol=0.1)
