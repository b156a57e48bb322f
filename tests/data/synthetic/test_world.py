"""Who and what there is in the synthetic world."""

from dataclasses import fields, replace

import numpy as np
import pytest

from candidfeed.data.synthetic import world as synthetic_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.world import World, make_world
from candidfeed.errors import ConfigError

SETTINGS = WorldSettings(n_users=400, n_items=300, n_events=1_000, seed=3)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS)


def test_one_seed_gives_one_world_and_another_seed_another(world: World) -> None:
    again, other = make_world(SETTINGS), make_world(replace(SETTINGS, seed=4))
    for group in ("users", "items"):
        ours, same, else_ = (getattr(one, group) for one in (world, again, other))
        for field in fields(ours):
            assert np.array_equal(getattr(ours, field.name), getattr(same, field.name))
        assert not np.array_equal(ours.tickets, else_.tickets)


def test_the_length_of_the_log_does_not_change_who_and_what_there_is(world: World) -> None:
    longer = make_world(replace(SETTINGS, n_events=10**9))
    assert np.array_equal(longer.users.taste, world.users.taste)
    assert np.array_equal(longer.items.vector, world.items.vector)


def test_tastes_and_items_are_vectors_of_length_1(world: World) -> None:
    for vectors in (world.users.taste.reshape(-1, 16), world.items.vector):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_half_of_the_items_are_there_at_the_start_and_the_others_come_evenly(world: World) -> None:
    assert np.all(np.diff(world.items.tick) >= 0)
    # 150 of 300 before tick 0; the k-th of the others after (k + 0.5) / 150 of 360 ticks.
    assert world.n_items_at[0] == 150
    assert world.items.tick[149:152].tolist() == [-5, 1, 3]
    assert world.n_items_at[180] == 150 + 75
    assert world.n_items_at[-1] == 300


def test_three_fifths_of_the_users_are_there_at_the_start(world: World) -> None:
    assert world.users.tick[239] < 0 <= world.users.tick[240]
    assert world.n_users_at[-1] == 400


def test_fresh_is_what_came_out_within_a_week(world: World) -> None:
    for tick in (0, 100, 359):
        oldest = world.items.tick[world.first_fresh_at[tick]]
        assert tick - 28 < oldest <= tick
        assert world.items.tick[world.first_fresh_at[tick] - 1] <= tick - 28


def test_the_newest_item_is_fresh_where_nothing_came_out_within_a_week() -> None:
    old = make_world(WorldSettings(n_users=1, n_items=2, n_events=1, seed=0))
    assert old.items.tick.tolist() == [-720, 180]
    assert old.first_fresh_at[[0, 179, 180, 359]].tolist() == [0, 0, 1, 1]


def test_popularity_and_activity_are_power_laws_of_the_rank(world: World) -> None:
    for tickets, exponent in ((world.items.tickets, 0.8), (world.users.tickets, 0.6)):
        n = len(tickets)
        by_hand = [round(((n + 10) / (rank + 10)) ** exponent) for rank in range(1, n + 1)]
        assert sorted(tickets.tolist(), reverse=True) == by_hand


def test_better_items_are_more_popular_on_average() -> None:
    items = make_world(replace(SETTINGS, n_items=20_000)).items
    most_popular = np.argsort(-items.tickets, kind="stable")[:2_000]
    # The mean of the best tenth of a normal variable is 1.755 deviations; the correlation is 0.6.
    assert items.quality[most_popular].mean() == pytest.approx(0.6 * 0.5 * 1.755, abs=0.03)


def test_people_of_one_group_like_the_same_clusters_more_often() -> None:
    users = make_world(replace(SETTINGS, n_users=20_000, n_items=3_000)).users
    first = users.clusters[:, 0, 0]
    same = first[:-1] == first[1:]
    alike = users.gender[:-1] == users.gender[1:]
    assert same[alike].mean() > 1.1 * same[~alike].mean()


@pytest.mark.parametrize(
    ("n_items", "n_clusters"), [(1, 1), (30, 2), (3_000, 27), (10**6, 500), (2 * 10**9, 2_000)]
)
def test_there_are_more_clusters_where_there_are_more_items(n_items: int, n_clusters: int) -> None:
    assert WorldSettings(1, n_items, 1, 0).n_clusters == n_clusters


@pytest.mark.parametrize("key", ["n_users", "n_items", "n_events"])
@pytest.mark.parametrize("n", [0, -5])
def test_a_size_below_1_is_refused(key: str, n: int) -> None:
    word = key.removeprefix("n_")
    with pytest.raises(ConfigError, match=f"^{word} should be 1 or more, but {n} came$"):
        replace(SETTINGS, **{key: n})


def test_more_users_than_rows_can_count_are_refused() -> None:
    message = "^users should be 2,147,483,647 or fewer, but 2,147,483,648 came$"
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, n_users=2**31)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^seed should be 0 or more, but -1 came$"):
        replace(SETTINGS, seed=-1)


def test_a_world_that_memory_can_not_hold_is_refused_before_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synthetic_world.os, "sysconf", lambda _name: 2**15)
    message = (
        "^4,000,000 users and 300 items need about 1.7 GiB of memory, this machine has 1.0; "
        "take fewer$"
    )
    with pytest.raises(ConfigError, match=message):
        make_world(replace(SETTINGS, n_users=4_000_000))
