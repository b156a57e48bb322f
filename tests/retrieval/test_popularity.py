"""Popular, ever and of late, counted by hand."""

import numpy as np
import pytest

from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.retrieval.popularity import Popular, PopularRecent, popular_for_strangers


def events_of(rows: list[tuple[int, int, float]], *, n_items: int = 4) -> Interactions:
    """Rows are (user, item, time in seconds)."""
    user, item, time_s = zip(*rows, strict=True) if rows else ((), (), ())
    return Interactions(
        user=np.array(user, dtype=np.int32),
        item=np.array(item, dtype=np.int32),
        value=np.ones(len(rows), dtype=np.float32),
        time_s=np.array(time_s, dtype=np.float64),
        n_users=5,
        n_items=n_items,
    )


def users(*rows: int) -> np.ndarray:
    return np.array(rows, dtype=np.int32)


def test_popular_counts_users_and_not_how_often_one_comes_back():
    train = events_of([(0, 1, 0), (0, 1, 1), (0, 1, 2), (1, 2, 3), (2, 2, 4), (0, 0, 5)])
    scores = Popular.fit(train).scores(users(4, 0))
    assert scores.dtype == np.float32
    assert scores.tolist() == [[1, 1, 2, 0], [1, 1, 2, 0]]


def test_popular_of_no_events_gives_every_item_the_same():
    assert Popular.fit(events_of([])).scores(users(0)).tolist() == [[0, 0, 0, 0]]


def test_popular_recent_counts_the_last_window_and_falls_back_to_ever():
    # Of 100 seconds, the last tenth is 90 to 100, both ends included.
    old = [(0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 3, 89), (1, 3, 89.5), (0, 2, 50)]
    new = [(3, 1, 90), (4, 1, 95), (4, 2, 100)]
    scores = PopularRecent.fit(events_of(old + new), window_share=0.1).scores(users(0))
    # Item 1: 2 of late. Item 2: 1 of late. Items 0 and 3: none of late, 3 and 2 ever.
    assert np.argsort(-scores[0]).tolist() == [1, 2, 0, 3]


def test_popular_recent_ties_where_both_counts_are_equal():
    rows = [(0, 0, 0), (1, 1, 0), (0, 2, 9), (1, 3, 9)]
    scores = PopularRecent.fit(events_of(rows), window_share=0.5).scores(users(0))[0]
    assert scores[0] == scores[1] < scores[2] == scores[3]


def test_popular_recent_over_the_whole_time_is_the_popular_order():
    rng = np.random.default_rng(1)
    rows = [(int(u), int(i), float(t)) for u, i, t in rng.integers(0, 4, (40, 3))]
    ever = Popular.fit(events_of(rows)).item_scores
    recent = PopularRecent.fit(events_of(rows), window_share=1.0).item_scores
    np.testing.assert_array_equal(np.argsort(ever, stable=True), np.argsort(recent, stable=True))
    np.testing.assert_array_equal(ever[:, None] == ever, recent[:, None] == recent)


def test_popular_recent_at_one_instant_is_popular():
    rows = [(0, 0, 7), (1, 0, 7), (1, 2, 7)]
    scores = PopularRecent.fit(events_of(rows), window_share=0.1).scores(users(0))
    assert scores.tolist() == [[2, 0, 1, 0]]


def test_popular_recent_needs_times_and_a_window():
    with pytest.raises(DataError, match="popular-recent needs the time of each event"):
        PopularRecent.fit(events_of([(0, 0, float("nan"))]), window_share=0.1)
    with pytest.raises(DataError, match="popular-recent needs the time of each event"):
        PopularRecent.fit(events_of([]), window_share=0.1)
    with pytest.raises(ValueError, match=r"in \(0, 1\], not 0"):
        PopularRecent.fit(events_of([(0, 0, 0)]), window_share=0)


def test_only_users_of_whom_nothing_is_known_get_the_popular_order():
    train = events_of([(0, 1, 0), (1, 1, 0), (1, 3, 0)])
    scores = np.full((3, 4), 0.5, dtype=np.float32)
    filled = popular_for_strangers(scores, train.matrix[[0, 4, 1]], Popular.fit(train))
    assert filled.tolist() == [[0.5] * 4, [0, 2, 0, 1], [0.5] * 4]
