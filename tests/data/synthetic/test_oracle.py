"""The oracle: consistent with itself, and better than anything that learns."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.world import make_world

DAY_S = 86_400


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.of(make_world(WorldSettings(n_users=70, n_items=2_100, n_events=10, seed=7)))


def test_scores_are_exposure_times_click_summed_over_the_positions(oracle: Oracle) -> None:
    users, items = np.repeat(np.arange(5), 2_100), np.tile(np.arange(2_100), 5)
    time_s = oracle.start_s + 30 * DAY_S
    slowly = np.zeros(len(users))
    for position in range(1, 9):
        shown = oracle.p_shown(users, items, time_s, position=position)
        slowly += shown * oracle.feedback(users, items, time_s, position=position).click
    np.testing.assert_allclose(
        oracle.scores(np.arange(5), time_s).ravel(), slowly, rtol=2e-4, atol=1e-9
    )


def test_a_slate_shows_at_most_one_item_a_position(oracle: Oracle) -> None:
    users, items = np.repeat(3, 2_100), np.arange(2_100)
    first = oracle.p_shown(users, items, oracle.start_s, position=1)
    second = oracle.p_shown(users, items, oracle.start_s, position=2)
    assert first.sum() == pytest.approx(1.0, rel=1e-5)
    # The second slot stays empty where it drew what stands above it.
    assert 0.9 < second.sum() < 1.0


def test_values_are_what_a_user_would_do_at_position_1(oracle: Oracle) -> None:
    time_s = oracle.start_s + 80 * DAY_S
    weights = {"click": 1.0, "like": 2.0, "hide": -5.0}
    users, items = np.repeat([8, 66], 2_100), np.tile(np.arange(2_100), 2)
    feedback = oracle.feedback(users, items, time_s)
    by_hand = feedback.click + 2 * feedback.like - 5 * feedback.hide
    values = oracle.values(np.array([8, 66]), time_s, weights)
    np.testing.assert_allclose(values.ravel(), by_hand, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(feedback.value(weights), by_hand, rtol=1e-5, atol=1e-7)


def test_each_user_may_be_asked_at_their_own_time(oracle: Oracle) -> None:
    users = np.arange(70)
    times_s = oracle.start_s + np.linspace(0, 89, 70) * DAY_S
    together = oracle.scores(users, times_s)
    for user in (0, 31, 32, 69):
        alone = oracle.scores(np.array([user]), times_s[user])
        np.testing.assert_allclose(together[user], alone[0], rtol=1e-5, atol=1e-10)


def test_what_is_not_out_yet_is_neither_shown_nor_clicked(oracle: Oracle) -> None:
    is_out = oracle.world.items.tick <= 0
    # 1,050 before the start, and the three of (k + 0.5) / 1,050 of 360 ticks below 1.
    assert is_out.sum() == 1_053
    scores = oracle.scores(np.arange(70), oracle.start_s)
    assert np.all((scores > 0) == is_out)
    values = oracle.values(np.arange(70), oracle.start_s, {"click": 1.0})
    assert np.all((values > 0) == is_out)
    late = oracle.feedback(np.array([1]), np.array([2_099]), oracle.start_s)
    assert (late.click[0], late.like[0], late.hide[0]) == (0, 0, 0)


def test_a_click_is_less_likely_further_down_and_position_1_is_always_looked_at(
    oracle: Oracle,
) -> None:
    users, items = np.zeros(8, dtype=int), np.zeros(8, dtype=int)
    feedback = oracle.feedback(users, items, oracle.end_s, position=np.arange(1, 9))
    for kind in ("click", "like", "hide"):
        by_position = getattr(feedback, kind)
        np.testing.assert_allclose(by_position / by_position[0], np.arange(1, 9) ** -0.4, rtol=1e-5)


@pytest.mark.parametrize("position", [0, 9, -1])
def test_a_position_that_no_slate_has_is_refused(oracle: Oracle, position: int) -> None:
    one = np.array([0])
    with pytest.raises(ValueError, match=f"^positions should be 1 to 8, but {position} came$"):
        oracle.feedback(one, one, oracle.start_s, position=position)
    with pytest.raises(ValueError, match=r"^positions should be 1 to 8"):
        oracle.p_shown(one, one, oracle.start_s, position=position)


def test_a_weight_for_something_else_is_refused(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match=r"^weights: 'buy' is none of click, like, hide$"):
        oracle.values(np.array([0]), oracle.start_s, {"click": 1.0, "buy": 1.0})


def test_where_nothing_of_a_cluster_is_out_something_popular_is_shown(oracle: Oracle) -> None:
    world = oracle.world
    late = replace(world.items, cluster=(world.items.tick > 0).astype(np.uint16))
    liked = np.ones_like(world.users.clusters)
    empty = Oracle.of(replace(world, items=late, users=replace(world.users, clusters=liked)))
    users, items = np.zeros(2_100, dtype=int), np.arange(2_100)
    shown = empty.p_shown(users, items, empty.start_s, position=1)
    tickets = late.tickets * (late.tick <= 0)
    fresh = (late.tick > -28) & (late.tick <= 0)
    popular = tickets / tickets.sum()
    other = 0.5 * popular + 0.25 * fresh / fresh.sum() + 0.25 * (late.tick <= 0) / 1_053
    np.testing.assert_allclose(shown, 0.7 * popular + 0.3 * other, rtol=1e-4)


def test_a_stretch_of_time_is_the_mean_of_its_moments(oracle: Oracle) -> None:
    scorer = oracle.during(100.0, 500.0, n_times=2)
    assert scorer.times_s == (200.0, 400.0)
    early, late = oracle.start_s, oracle.start_s + 40 * DAY_S
    scorer = oracle.during(early - 20 * DAY_S, early + 60 * DAY_S, n_times=2)
    users = np.array([4, 2])
    mean = (oracle.scores(users, early) + oracle.scores(users, late)) / 2
    np.testing.assert_allclose(scorer.scores(users), mean, rtol=1e-6)
