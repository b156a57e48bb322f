"""The log of the synthetic world: it is drawn from what the oracle says."""

import numpy as np
import polars as pl
import pytest

from candidfeed.data.synthetic.events import BLOCK_REQUESTS, EventSource, Slates, draw_slates
from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.world import World, make_world

N_USERS, N_ITEMS, N_REQUESTS, TAU = 3, 12, 60_000, 0.4


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldSettings(n_users=N_USERS, n_items=N_ITEMS, n_events=50_000, seed=2))


@pytest.fixture(scope="module")
def oracle(world: World) -> Oracle:
    return Oracle.of(world)


@pytest.fixture(scope="module")
def slates(world: World, oracle: Oracle) -> Slates:
    """Many requests at one moment."""
    tau = np.full(N_REQUESTS, TAU)
    return draw_slates(world, oracle.lots, tau, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def log(world: World) -> pl.DataFrame:
    return EventSource.of(world).draw(range(2))


def pairs(oracle: Oracle) -> tuple[np.ndarray, np.ndarray, float]:
    users, items = np.repeat(np.arange(N_USERS), N_ITEMS), np.tile(np.arange(N_ITEMS), N_USERS)
    return users, items, oracle.start_s + TAU * (oracle.end_s - oracle.start_s)


def count(slates: Slates, slot: int, happened: np.ndarray) -> np.ndarray:
    """How often it happened to each pair at this slot, [N_USERS * N_ITEMS]."""
    at = slates.user * N_ITEMS + slates.item[slot]
    return np.bincount(at[happened[slot]], minlength=N_USERS * N_ITEMS)


def assert_drawn_from(counts: np.ndarray, p: np.ndarray, n: np.ndarray) -> None:
    """Within five standard deviations of what is expected, and never where p is 0."""
    assert np.all(counts[p == 0] == 0)
    spread = np.sqrt(np.maximum(n * p * (1 - p), 1.0))
    assert np.max(np.abs(counts - n * p) / spread) < 5


def test_items_are_shown_as_often_as_the_oracle_says(slates: Slates, oracle: Oracle) -> None:
    users, items, time_s = pairs(oracle)
    n_requests = np.bincount(slates.user, minlength=N_USERS)[users]
    for slot in range(8):
        p = oracle.p_shown(users, items, time_s, position=slot + 1)
        assert_drawn_from(count(slates, slot, slates.shown), p.astype(float), n_requests)
    anywhere = sum(count(slates, slot, slates.shown) for slot in range(8))
    assert_drawn_from(anywhere, oracle.p_shown(users, items, time_s).astype(float), n_requests)


@pytest.mark.parametrize(
    ("kind", "happened"), [("click", "clicked"), ("like", "liked"), ("hide", "hidden")]
)
def test_feedback_comes_as_often_as_the_oracle_says(
    slates: Slates, oracle: Oracle, kind: str, happened: str
) -> None:
    users, items, time_s = pairs(oracle)
    for slot in range(8):
        p = getattr(oracle.feedback(users, items, time_s, position=slot + 1), kind)
        n_shown = count(slates, slot, slates.shown)
        assert_drawn_from(count(slates, slot, getattr(slates, happened)), p.astype(float), n_shown)


def test_scores_are_how_often_an_item_is_shown_and_clicked(slates: Slates, oracle: Oracle) -> None:
    users, items, time_s = pairs(oracle)
    p = oracle.scores(np.arange(N_USERS), time_s)[users, items].astype(float)
    clicks = sum(count(slates, slot, slates.clicked) for slot in range(8))
    assert_drawn_from(clicks, p, np.bincount(slates.user, minlength=N_USERS)[users])


def test_no_item_comes_twice_in_a_slate(log: pl.DataFrame) -> None:
    shown = log.filter(pl.col("kind") == "impression")
    assert shown.select("request_id", "item_id").is_duplicated().sum() == 0
    assert shown.select("request_id", "position").is_duplicated().sum() == 0
    assert shown["position"].min() == 1
    assert shown["position"].max() == 8


def test_an_impression_is_followed_by_what_was_done_about_it(log: pl.DataFrame) -> None:
    slot = ["request_id", "position", "user_id", "item_id"]
    done = log.group_by(slot, maintain_order=True).agg(pl.col("kind").cast(pl.String), "timestamp")
    orders = {tuple(kinds) for kinds in done["kind"]}
    impression, click, like, hide = "impression", "click", "like", "hide"
    assert orders == {
        (impression,),
        (impression, click),
        (impression, click, like),
        (impression, hide),
    }
    waits = done["timestamp"].list.diff(null_behavior="drop").explode()
    assert waits.min().total_seconds() >= 1
    assert waits.max().total_seconds() <= 31


def test_requests_come_in_the_order_of_time(log: pl.DataFrame) -> None:
    shown = log.filter(pl.col("kind") == "impression")
    assert shown["timestamp"].is_sorted()
    assert log["request_id"].is_sorted()
    assert log.group_by("request_id").agg(pl.col("user_id").n_unique())["user_id"].max() == 1


def test_no_event_comes_twice_however_few_users_there_are() -> None:
    alone = make_world(WorldSettings(n_users=1, n_items=1, n_events=10**8, seed=0))
    log = EventSource.of(alone).draw(range(1))
    assert log.select("user_id", "item_id", "kind", "timestamp").is_duplicated().sum() == 0


def test_nobody_is_there_before_they_joined_and_nothing_before_it_is_out() -> None:
    world = make_world(WorldSettings(n_users=200, n_items=200, n_events=50_000, seed=5))
    log = EventSource.of(world).draw(range(2)).filter(pl.col("kind") == "impression")
    since_start = log["timestamp"].dt.epoch("us").to_numpy() / 1e6 - Oracle.of(world).start_s
    tick = np.floor(since_start / (6 * 3_600))
    assert np.all(world.users.tick[log["user_id"].to_numpy()] <= tick)
    assert np.all(world.items.tick[log["item_id"].to_numpy()] <= tick)
    assert world.users.tick[log["user_id"].to_numpy()].max() > 300
    assert world.items.tick[log["item_id"].to_numpy()].max() > 300


def test_how_many_blocks_are_drawn_together_changes_no_row(world: World) -> None:
    source = EventSource.of(world)
    together = source.draw(range(1, 4))
    apart = pl.concat([source.draw(range(block, block + 1)) for block in (1, 2, 3)])
    assert together.equals(apart)
    assert together["request_id"].min() == BLOCK_REQUESTS


def test_the_log_fills_the_span(world: World, oracle: Oracle) -> None:
    source = EventSource.of(world)
    last = source.draw(range(source.n_blocks)).head(world.settings.n_events)["timestamp"][-1]
    share = (last.timestamp() - oracle.start_s) / (oracle.end_s - oracle.start_s)
    assert share == pytest.approx(1.0, abs=0.02)
