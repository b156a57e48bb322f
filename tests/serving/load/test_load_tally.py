"""How requests are counted, and how long they took."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.serving.load.answers import Receipt, Slate
from candidfeed.serving.load.tally import Tally, Times, percentile, spread_ms

SLATE = Slate("r", "0001-a", (), (1, 2))
RECEIPT = Receipt(1, 0, frozenset())


def test_percentiles_are_values_that_came_by_nearest_rank() -> None:
    twenty = [float(n) for n in range(1, 21)]
    shares = (0.01, 0.05, 0.051, 0.5, 0.95, 0.951, 0.99, 1.0)
    assert [percentile(twenty, share) for share in shares] == [1, 1, 2, 10, 19, 20, 20, 20]
    assert percentile([float(n) for n in range(1, 101)], 0.07) == 7
    assert percentile([3.0], 0.5) == 3.0


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_the_smallest_value_that_covers_its_share(
    values: list[float], share: float
) -> None:
    ascending = sorted(values)
    found = percentile(ascending, share)
    n_needed = math.ceil(round(share * len(values), 6))
    assert sum(one <= found for one in values) >= n_needed
    assert sum(one < found for one in values) < max(n_needed, 1)


def test_a_spread_is_in_milliseconds_and_none_of_nothing() -> None:
    taken_s = [0.2, 0.1, 0.4, 0.3]
    assert spread_ms(taken_s) == {
        "p50": 200.0,
        "p95": 400.0,
        "p99": 400.0,
        "p99.9": 400.0,
        "max": 400.0,
    }
    assert spread_ms([]) is None


def test_what_was_due_before_the_count_begins_is_not_counted() -> None:
    tally = Tally(start_s=10.0)
    tally.add("feed", "200", Times(9.999, 10.1, 10.2), SLATE)
    assert (tally.n, tally.last_s) == (0, 10.0)
    tally.add("feed", "200", Times(10.0, 10.1, 10.2), SLATE)
    assert (tally.n, tally.n_good, tally.last_s) == (1, 1, 10.2)


def test_latency_counts_from_when_a_request_was_due() -> None:
    tally = Tally(start_s=0.0)
    tally.add("feed", "200", Times(1.0, 1.5, 1.75), SLATE)
    tally.add("events", "503", Times(1.0, 1.5, 1.75))
    figures = tally.figures(seconds=2.0)
    assert figures["feed"]["latency_ms"]["max"] == 750.0
    assert figures["events"]["refused_ms"]["max"] == 750.0
    assert figures["events"]["refused_after_sending_ms"]["max"] == 250.0
    assert figures["client_late_ms"]["max"] == 500.0


def test_refusals_are_no_failures_and_all_else_that_is_not_good_is_one() -> None:
    tally = Tally(start_s=0.0)
    times = Times(1.0, 1.0, 1.1)
    for name in ("503", "429", "500", "404", "timeout", "wrong: item twice"):
        tally.add("feed", name, times)
    tally.add("events", "200", times, RECEIPT)
    figures = tally.figures(seconds=1.0)
    assert (tally.n, tally.n_good, tally.n_failed) == (7, 1, 4)
    assert (figures["feed"]["n_refused"], figures["feed"]["n_failed"]) == (2, 4)
    assert figures["answers"]["wrong: item twice"] == 1


def test_what_is_answered_after_the_end_stretches_the_time_of_the_rate() -> None:
    tally = Tally(start_s=5.0)
    for ended_s in (6.0, 7.0, 9.0):
        tally.add("feed", "200", Times(5.5, 5.5, ended_s), SLATE)
    assert tally.figures(seconds=2.0)["good_per_s"] == 0.8  # 3 / 4 s
    assert tally.figures(seconds=6.0)["good_per_s"] == 0.5


def test_steps_of_degradation_releases_and_slots_are_counted() -> None:
    tally = Tally(start_s=0.0)
    times = Times(1.0, 1.0, 1.1)
    tally.add("feed", "200", times, Slate("r", "0001-a", ("ranker_late", "store_down"), (1,)))
    tally.add("feed", "200", times, Slate("s", "0002-b", ("ranker_late",), (1, 2)))
    figures = tally.figures(seconds=1.0)
    assert figures["degraded"] == {"ranker_late": 2, "store_down": 1}
    assert figures["releases"] == {"0001-a": 1, "0002-b": 1}
    assert figures["slots"] == {"1": 1, "2": 1}


@pytest.mark.parametrize(
    ("late", "other", "holds"),
    [(0, None, True), (1, None, True), (2, None, False), (1, "503", False), (0, "500", False)],
)
def test_a_rate_holds_where_99_of_100_feeds_are_good_in_time_and_none_fails(
    late: int, other: str | None, holds: bool
) -> None:
    tally = Tally(start_s=0.0)
    n_others = 1 if other else 0
    for n in range(100 - n_others):
        tally.add("feed", "200", Times(0.0, 0.0, 0.06 if n < late else 0.05), SLATE)
    if other:
        tally.add("feed", other, Times(0.0, 0.0, 0.001))
    tally.add("events", "200", Times(0.0, 0.0, 5.0), RECEIPT)
    assert tally.holds(limit_s=0.05, share=0.99) is holds


def test_a_rate_at_which_nothing_was_asked_does_not_hold() -> None:
    assert not Tally(start_s=0.0).holds(limit_s=1.0, share=0.99)
