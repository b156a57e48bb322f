"""The ranker's inputs: statistics, rating levels, user states and features, worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import (
    DENSE_FEATURES,
    N_TIME_BINS,
    RankerSpace,
    dense_features,
    ranker_inputs,
)
from candidfeed.ranking.rating_scale import MAX_LEVELS, RatingScale, nearest_level
from candidfeed.ranking.user_state import UserState, UserStates

NAN = math.nan
YEAR_S = 365 * 86_400.0
N_USERS, N_ITEMS, N_IDS = 4, 5, 6
# Items 0 and 1 share feature 1, items 1 and 2 feature 2; item 3 has a feature of its own and item 4
# padding alone.
ITEM_BAG = Bag(
    ids=np.array([[1, 0], [1, 2], [2, 5], [4, 0], [0, 0]], dtype=np.int32),
    weights=np.array([[1, 0], [0.6, 0.8], [3, 4], [-2, 0], [0, 0]], dtype=np.float32),
)
USER_BAG = Bag(
    ids=np.array([[1], [2], [1], [3]], dtype=np.int32), weights=np.ones((4, 1), np.float32)
)
# (user, item, rating, time): user 3 has no event, item 4 none either.
ROWS = [
    (0, 0, 5.0, 0 * YEAR_S),
    (0, 1, 3.0, 1 * YEAR_S),
    (1, 1, 4.0, 2 * YEAR_S),
    (1, 0, 2.0, 3 * YEAR_S),
    (1, 2, 1.0, 4 * YEAR_S),
    (2, 1, 3.0, 5 * YEAR_S),
]
MEAN = 3.0


def floats(values: list) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def log_of(rows: list[tuple], *, n_items: int = N_ITEMS) -> Interactions:
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Interactions(
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        value=columns[2].astype(np.float32),
        time_s=columns[3],
        n_users=N_USERS,
        n_items=n_items,
    )


def space_of(log: Interactions, *, like_at: float | None = 4.0) -> RankerSpace:
    return RankerSpace.fit(log, ITEM_BAG, N_IDS, like_at)


def states_of(log: Interactions, space: RankerSpace, *, width: int = 1) -> UserState:
    everyone = np.arange(N_USERS, dtype=np.int32)
    histories = Histories.of(log, max_length=512)
    past = histories.padded(everyone, width=max(width, histories.longest))
    return UserState.of(past, USER_BAG, everyone, space.scale)


def dense_of(
    space: RankerSpace, state: UserState, items: np.ndarray, *, tower: np.ndarray | None = None
) -> np.ndarray:
    scores = np.zeros(items.shape, np.float32) if tower is None else tower
    return dense_features(
        space,
        state,
        items,
        tower=scores,
        neighbour=scores + 1,
    )


def by_name(dense: np.ndarray) -> dict[str, np.ndarray]:
    return {name: dense[..., place] for place, name in enumerate(DENSE_FEATURES)}


LOG = log_of(ROWS)
SPACE = space_of(LOG)
STATES = states_of(LOG, SPACE)
ALL_ITEMS = np.tile(np.arange(N_ITEMS, dtype=np.int32), (N_USERS, 1))


# Rating levels


def test_half_stars_are_levels_of_their_own() -> None:
    scale = RatingScale.of(floats([0.5, 4.5, 4.5, 3, NAN, 4]), 4.0)
    assert scale.levels.tolist() == [0.5, 3, 4, 4.5]
    assert scale.shares.tolist() == [0.2, 0.2, 0.2, 0.4]
    assert scale.mean == pytest.approx(16.5 / 5)
    assert scale.liked.tolist() == [False, False, True, True]


def test_yes_and_no_are_two_levels() -> None:
    scale = RatingScale.of(floats([0, 1, 1, 1]), 1.0)
    assert scale.levels.tolist() == [0, 1]
    assert scale.shares.tolist() == [0.25, 0.75]
    assert scale.liked.tolist() == [False, True]


def test_continuous_ratings_fall_in_bins_of_equal_mass() -> None:
    values = floats(list(range(100)))
    scale = RatingScale.of(np.random.default_rng(0).permutation(values), 50.0)
    # Each bin holds five whole numbers in a row: 0 to 4 with mean 2, and so on.
    assert scale.levels.tolist() == [2 + 5 * k for k in range(MAX_LEVELS)]
    assert scale.shares.tolist() == [1 / MAX_LEVELS] * MAX_LEVELS
    assert scale.mean == pytest.approx(49.5)
    assert scale.liked.sum() == MAX_LEVELS / 2


def test_as_many_ratings_as_levels_are_not_binned() -> None:
    values = floats([k / 10 for k in range(MAX_LEVELS)])
    np.testing.assert_array_equal(RatingScale.of(values, 1.0).levels, values)


@pytest.mark.parametrize("value", [5.0, 0.0, -2.5, 1e10, 3e38])
def test_a_lone_rating_gets_a_second_level_that_never_occurs(value: float) -> None:
    scale = RatingScale.of(floats([value] * 3), value)
    assert scale.levels[0] == np.float32(value)
    assert scale.levels[1] > scale.levels[0]
    assert np.isfinite(scale.levels).all()
    assert scale.shares.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "like_at"), [([1, 5], None), ([NAN, NAN], 4.0), ([], 4.0), ([math.inf], 4.0)]
)
def test_without_ratings_nothing_is_liked(values: list, like_at: float | None) -> None:
    scale = RatingScale.of(floats(values), like_at)
    assert scale.levels.tolist() == [0, 0]
    assert scale.shares.sum() == 1
    assert scale.mean == 0
    assert scale.like_at is None
    assert not scale.liked.any()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=80))
def test_levels_ascend_and_every_rating_belongs_to_one(values: list[float]) -> None:
    scale = RatingScale.of(floats(values), 0.0)
    assert 2 <= len(scale.levels) <= MAX_LEVELS
    assert (np.diff(scale.levels) > 0).all()
    assert scale.shares.sum() == pytest.approx(1)
    assert scale.mean == pytest.approx(np.mean(floats(values), dtype=np.float64), abs=1e-9)


def test_the_nearest_level_wins_and_a_tie_goes_up() -> None:
    levels = floats([1, 2, 4])
    values = floats([-9, 1.4, 1.5, 1.6, 2.9, 3.0, 3.1, 4, 99, math.inf, -math.inf, NAN])
    nearest = nearest_level(values, levels)
    assert nearest.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 0, -1]
    assert nearest.dtype == np.int32
    assert nearest_level(values.reshape(3, 4), levels).shape == (3, 4)


# Items and time


def test_times_fall_in_bins_of_equal_mass() -> None:
    log = log_of([(0, 0, 1, t) for t in range(N_TIME_BINS * 10)])
    space = space_of(log)
    bins = space.time_bins(log.time_s)
    assert len(space.time_edges) == N_TIME_BINS - 1
    np.testing.assert_array_equal(np.bincount(bins), [10] * N_TIME_BINS)
    assert (np.diff(bins) >= 0).all()


def test_times_outside_the_range_fall_in_the_first_and_last_bin_and_none_behind_them() -> None:
    edges = np.array([10.0, 20.0])
    space = replace(SPACE, time_edges=edges)
    asked = np.array([[-1e12, 9.9, 10.0], [20.0, 1e12, NAN]])
    assert space.time_bins(asked).tolist() == [[0, 0, 1], [2, 2, 3]]
    assert space.time_bins(asked).dtype == np.int32


def test_an_item_is_known_by_how_many_people_touched_it() -> None:
    twice = log_of([*ROWS, (0, 0, 5.0, 5 * YEAR_S)])
    np.testing.assert_allclose(space_of(twice).items.log_count, np.log1p([2, 3, 1, 0, 0]))


def test_only_the_last_tenth_of_the_events_is_recent() -> None:
    rows = [(u, 0, 3, float(t)) for t, u in enumerate([0, 1] * 9)]
    log = log_of([*rows, (0, 1, 3, 18.0), (0, 1, 3, 19.0)])
    np.testing.assert_allclose(space_of(log).items.log_recent_count, np.log1p([0, 1, 0, 0, 0]))


def test_a_mean_rating_is_drawn_to_the_mean_of_all() -> None:
    # Item 0: 5 and 2, mean of all 3, and five further events at the mean.
    expected = [3 + (2 - 1) / 7, 3 + (0 + 1 + 0) / 8, 3 + (-2) / 6, 3, 3]
    np.testing.assert_allclose(SPACE.items.mean_rating, expected, rtol=1e-6)


def test_an_items_age_is_counted_from_the_mean_time_of_its_events() -> None:
    # One further event at the mean of all, 2.5 years.
    expected = np.array([(0 + 3 + 2.5) / 3, (1 + 2 + 5 + 2.5) / 4, (4 + 2.5) / 2, 2.5, 2.5])
    np.testing.assert_allclose(SPACE.items.mean_time_s, expected * YEAR_S)


def test_window_lift_compares_an_item_with_the_events_of_its_window() -> None:
    # Two windows, of three events and of one. Item 0 has its two events in the first.
    log = log_of([(0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 1, 2), (1, 1, 1, 9)])
    space = space_of(log)
    late = space.time_bins(np.array([9.0]))[0]
    at = space.time_bins(log.time_s)
    n_bins = len(space.time_edges) + 1
    assert space.items.lift_in_bin.shape == (n_bins + 1, N_ITEMS)
    counts = np.zeros((N_ITEMS, n_bins))
    for item, window in zip(log.item, at, strict=True):
        counts[item, window] += 1
    # Item 0 never occurs in the last window, which holds a quarter of the events: 2 / 4 expected.
    assert space.items.lift_in_bin[late, 0] == pytest.approx(math.log(1 / 1.5))
    # Item 1 occurs there once, where 2 / 4 is expected.
    assert space.items.lift_in_bin[late, 1] == pytest.approx(math.log(2 / 1.5))
    for item in range(N_ITEMS):
        for window in range(n_bins):
            expected = counts[item].sum() * counts[:, window].sum() / 4
            lift = math.log((counts[item, window] + 1) / (expected + 1))
            assert space.items.lift_in_bin[window, item] == pytest.approx(lift, abs=1e-6)
    assert (space.items.lift_in_bin[-1] == 0).all()


def test_an_items_features_have_length_one_together_and_none_stay_zero() -> None:
    bag = Bag(np.array([[1, 2], [3, 0], [0, 0]], np.int32), np.float32([[3, 4], [2, 0], [0, 0]]))
    units = replace(SPACE, item_bag=bag).item_units(np.arange(3))
    np.testing.assert_allclose(units, [[0.6, 0.8], [1, 0], [0, 0]])


# Users


def test_a_users_mean_and_tones_are_worked_out_from_their_ratings() -> None:
    # User 0: 5 and 3 about a mean of 3; user 1: 4, 2, 1; user 2: 3. Five events at the mean of all.
    means = np.array([3 + 2 / 7, 3 + (1 - 1 - 2) / 8, 3, 3])
    np.testing.assert_allclose(STATES.mean_rating, means, rtol=1e-6)
    tones = [[5 - means[0], 3 - means[0], 0], [4, 2, 1] - means[1], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(STATES.tone, tones, atol=1e-6)
    assert STATES.history.tolist() == [[0, 1, 5], [1, 0, 2], [1, 5, 5], [5, 5, 5]]
    assert STATES.tone.dtype == STATES.mean_rating.dtype == np.float32


def test_now_is_a_users_last_event_and_unknown_without_one() -> None:
    np.testing.assert_array_equal(STATES.now_s, [1 * YEAR_S, 4 * YEAR_S, 5 * YEAR_S, NAN])


def test_states_are_those_of_the_rows_asked_for() -> None:
    rows = np.array([2, 0, 2])
    some = UserStates.of(LOG, USER_BAG, SPACE.scale).take(rows)
    assert some.row.tolist() == [2, 0, 2]
    assert some.bag.ids.tolist() == [[1], [1], [1]]
    for name in ("history", "tone", "mean_rating", "now_s"):
        expected = getattr(STATES, name)[rows]
        np.testing.assert_array_equal(getattr(some, name), expected)
        np.testing.assert_array_equal(getattr(STATES.take(rows), name), expected)


def test_events_without_a_rating_have_no_tone_and_do_not_move_the_mean() -> None:
    gaps = log_of([(0, 0, 5.0, 0), (0, 1, NAN, 1), (1, 2, 1.0, 0)])
    space = space_of(gaps)
    state = states_of(gaps, space)
    mean = 3 + 2 / 6
    np.testing.assert_allclose(state.tone[0], [5 - mean, 0], rtol=1e-6)
    assert state.mean_rating[0] == pytest.approx(mean)


def test_values_that_are_no_ratings_are_not_read() -> None:
    space = space_of(LOG, like_at=None)
    state = states_of(LOG, space)
    assert (state.tone == 0).all()
    assert (state.mean_rating == 0).all()
    assert (space.items.mean_rating == 0).all()


# Dense features


def test_dense_features_are_those_worked_out_by_hand() -> None:
    tower = np.arange(N_USERS * N_ITEMS, dtype=np.float32).reshape(N_USERS, N_ITEMS)
    found = by_name(dense_of(SPACE, STATES, ALL_ITEMS, tower=tower))
    user, item = 0, 2
    counts = np.log1p([2, 3, 1])
    mean = 3 + 2 / 7
    # User 0 saw items 0 (unit features 1: 1) and 1 (1: 0.6, 2: 0.8); item 2 is (2: 0.6, 5: 0.8).
    profile, liked = 0.8 / 2, 0.8 * (3 - mean) / math.sqrt(2)
    expected = {
        "tower_score": 2,
        "neighbour_score": 3,
        "log_count": counts[2],
        "log_recent_count": SPACE.items.log_recent_count[2],
        "window_lift": SPACE.items.lift_in_bin[SPACE.time_bins(np.array([YEAR_S]))[0], 2],
        "age_years": 1 - 6.5 / 2,
        "item_mean_rating": 3 - 2 / 6,
        "history_log_length": math.log(3),
        "history_log_count": (counts[0] + counts[1]) / 2,
        "count_gap": counts[2] - (counts[0] + counts[1]) / 2,
        "user_mean_rating": mean,
        "affinity": profile * 0.6,
        "liked_affinity": liked * 0.6,
    }
    assert set(expected) == set(DENSE_FEATURES)
    for name, value in expected.items():
        assert found[name][user, item] == pytest.approx(value, abs=1e-5), name


def test_padding_gives_zeros() -> None:
    items = np.array([[0, N_ITEMS], [N_ITEMS, N_ITEMS]], dtype=np.int32)
    dense = dense_of(SPACE, STATES.take(np.array([0, 1])), items, tower=np.ones((2, 2), np.float32))
    assert (dense[0, 1] == 0).all()
    assert (dense[1] == 0).all()
    assert (dense[0, 0] != 0).any()
    assert dense.dtype == np.float32


def random_world(seed: int, *, n_events: int = 400, width: int = 6) -> tuple:
    """A space over 40 items and 90 feature ids, and the state of 30 users."""
    rng = np.random.default_rng(seed)
    n_users, n_items, n_ids = 30, 40, 90
    log = Interactions(
        user=rng.integers(0, n_users - 1, n_events).astype(np.int32),
        item=rng.integers(0, n_items, n_events).astype(np.int32),
        value=rng.integers(1, 11, n_events).astype(np.float32) / 2,
        time_s=rng.random(n_events) * 1e8,
        n_users=n_users,
        n_items=n_items,
    )
    # Distinct ids in a row, as `FeatureMap.encode` gives them.
    ids = np.argsort(rng.random((n_items, n_ids - 1)), axis=1)[:, :width].astype(np.int32) + 1
    bag = Bag(ids, rng.random((n_items, width)).astype(np.float32))
    space = RankerSpace.fit(log, bag, n_ids, 4.0)
    users = Bag(np.ones((n_users, 1), np.int32), np.ones((n_users, 1), np.float32))
    rows = np.arange(n_users, dtype=np.int32)
    histories = Histories.of(log, max_length=512)
    tower = rng.standard_normal((n_users, n_items)).astype(np.float32)
    return space, histories, users, rows, tower


@given(seed=st.integers(0, 5), draw=st.data())
def test_a_candidates_features_are_the_same_bits_in_any_company(seed: int, draw) -> None:
    space, histories, user_bag, rows, tower = random_world(seed)
    state = UserState.of(histories.padded(rows), user_bag, rows, space.scale)
    everything = np.tile(np.arange(space.n_items, dtype=np.int32), (len(rows), 1))
    full = dense_of(space, state, everything, tower=tower)
    users = np.array(draw.draw(st.lists(st.integers(0, 29), min_size=1, max_size=9)))
    items = draw.draw(st.lists(st.integers(0, space.n_items), min_size=1, max_size=70))
    asked = np.tile(np.array(items, dtype=np.int32), (len(users), 1))
    # A longer history elsewhere pads this one too.
    width = histories.longest + draw.draw(st.sampled_from([0, 1, 31, 64, 200]))
    wider = histories.padded(rows, width=width)
    some = UserState.of(wider, user_bag, rows, space.scale).take(users)
    scores = np.pad(tower, ((0, 0), (0, 1)))[users[:, None], asked]
    found = dense_of(space, some, asked, tower=scores)
    padded = np.pad(full, ((0, 0), (0, 1), (0, 0)))
    np.testing.assert_array_equal(found, padded[users[:, None], asked])


def test_affinities_are_the_dot_products_of_the_dense_table() -> None:
    space, histories, user_bag, rows, tower = random_world(1)
    state = UserState.of(histories.padded(rows), user_bag, rows, space.scale)
    everything = np.tile(np.arange(space.n_items, dtype=np.int32), (len(rows), 1))
    found = by_name(dense_of(space, state, everything, tower=tower))
    table = np.zeros((space.n_items, space.n_item_ids))
    places = np.arange(space.n_items)[:, None]
    table[places, space.item_bag.ids] = space.item_bag.weights
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    for user in range(len(rows)):
        n = histories.lengths[user]
        seen = table[state.history[user, :n]]
        affinity = table @ seen.sum(axis=0) / max(1, n)
        liked = table @ (state.tone[user, :n] @ seen) / math.sqrt(max(1, n))
        np.testing.assert_allclose(found["affinity"][user], affinity, atol=1e-6)
        np.testing.assert_allclose(found["liked_affinity"][user], liked, atol=1e-5)


def test_a_user_without_history_has_features_of_the_items_alone() -> None:
    found = by_name(dense_of(SPACE, STATES, ALL_ITEMS))
    for name in ("history_log_length", "history_log_count", "affinity", "liked_affinity"):
        assert (found[name][3] == 0).all()
    for name in ("age_years", "window_lift"):
        assert (found[name][3] == 0).all()
    np.testing.assert_allclose(found["user_mean_rating"][3], MEAN)
    np.testing.assert_array_equal(found["log_count"][3], SPACE.items.log_count)


@pytest.mark.parametrize("like_at", [None, 4.0])
@pytest.mark.parametrize("times", ["none", "some", "one instant"])
def test_all_numbers_are_finite_however_little_is_known(like_at: float | None, times: str) -> None:
    shown = {"none": [NAN] * 6, "some": [NAN, 1, 2, NAN, 4, 5], "one instant": [7] * 6}[times]
    rows = [(u, i, v, t) for (u, i, v, _), t in zip(ROWS, shown, strict=True)]
    log = log_of(rows if like_at else [(u, i, NAN, t) for u, i, _, t in rows])
    space = space_of(log, like_at=like_at)
    state = states_of(log, space)
    dense = dense_of(space, state, ALL_ITEMS)
    assert np.isfinite(dense).all()
    inputs = ranker_inputs(space, state, ALL_ITEMS, dense)
    assert all(np.isfinite(array).all() for array in inputs.values())
    for name in ("log_count", "log_recent_count", "mean_rating", "mean_time_s", "lift_in_bin"):
        assert np.isfinite(getattr(space.items, name)).all()


def test_without_times_nothing_is_said_of_age_windows_or_recency() -> None:
    log = log_of([(u, i, v, NAN) for u, i, v, _ in ROWS])
    space = space_of(log)
    state = states_of(log, space)
    found = by_name(dense_of(space, state, ALL_ITEMS))
    for name in ("age_years", "window_lift", "log_recent_count"):
        assert (found[name] == 0).all()
    assert len(space.time_edges) == 0
    assert (ranker_inputs(space, state, ALL_ITEMS, dense_of(space, state, ALL_ITEMS))[
        "time_bin"
    ] == 1).all()  # fmt: skip


def test_events_without_a_time_belong_to_no_window() -> None:
    with_gap = space_of(log_of([*ROWS, (2, 0, 3.0, NAN)]))
    np.testing.assert_array_equal(with_gap.items.lift_in_bin, SPACE.items.lift_in_bin)
    np.testing.assert_array_equal(with_gap.items.mean_time_s, SPACE.items.mean_time_s)
    assert with_gap.items.log_count[0] > SPACE.items.log_count[0]


def test_a_log_without_events_still_makes_a_space() -> None:
    space = space_of(log_of([]))
    state = states_of(log_of([]), space)
    dense = dense_of(space, state, ALL_ITEMS)
    assert np.isfinite(dense).all()
    assert (ranker_inputs(space, state, ALL_ITEMS, dense)["in_history"] == 0).all()


# The dict that the ranker takes


def inputs_of(items: list[list[int]], users: list[int], **more: np.ndarray) -> dict:
    asked, state = np.array(items, dtype=np.int32), STATES.take(np.array(users))
    return ranker_inputs(SPACE, state, asked, dense_of(SPACE, state, asked), **more)


def test_a_candidate_of_the_history_is_marked_with_its_own_tone() -> None:
    inputs = inputs_of([[0, 1, 2, 5], [2, 3, 0, 5], [4, 3, 5, 5]], [0, 1, 3])
    assert inputs["in_history"].tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    own = [
        [STATES.tone[0, 0], STATES.tone[0, 1], 0, 0],
        [STATES.tone[1, 2], 0, STATES.tone[1, 1], 0],
    ]
    np.testing.assert_array_equal(inputs["own_tone"], [*own, [0, 0, 0, 0]])
    assert inputs["in_history"].dtype == inputs["own_tone"].dtype == np.float32


def test_a_candidate_may_come_twice() -> None:
    assert inputs_of([[1, 1]], [0])["in_history"].tolist() == [[1, 1]]


def test_nobody_s_history_is_taken_for_another_s() -> None:
    space, histories, user_bag, rows, _ = random_world(2)
    state = UserState.of(histories.padded(rows), user_bag, rows, space.scale)
    items = np.tile(np.arange(space.n_items + 1, dtype=np.int32), (len(rows), 1))
    dense = np.zeros((*items.shape, len(DENSE_FEATURES)), np.float32)
    inputs = ranker_inputs(space, state, items, dense)
    for user in range(len(rows)):
        n = histories.lengths[user]
        own = dict(zip(state.history[user, :n], state.tone[user, :n], strict=True))
        expected = [own.get(item, 0.0) for item in range(space.n_items + 1)]
        np.testing.assert_array_equal(inputs["own_tone"][user], expected)
        inside = [item in own for item in range(space.n_items + 1)]
        np.testing.assert_array_equal(inputs["in_history"][user], inside)


def test_padding_has_no_weight_and_no_features() -> None:
    inputs = inputs_of([[2, 5], [5, 5]], [0, 1])
    assert inputs["weight"].tolist() == [[1, 0], [0, 0]]
    np.testing.assert_array_equal(inputs["item_feature_weights"][0], [[3, 4], [0, 0]])
    assert (inputs["item_feature_weights"][1] == 0).all()
    assert inputs["item_feature_ids"][0, 0].tolist() == [2, 5]


def test_each_pair_has_the_time_given_or_else_its_users_now() -> None:
    at = np.array([[0.0, 5 * YEAR_S], [NAN, 4 * YEAR_S]])
    given_times = inputs_of([[0, 1], [0, 1]], [0, 1], time_s=at)
    np.testing.assert_array_equal(given_times["time_bin"], SPACE.time_bins(at))
    by_state = inputs_of([[0, 1], [0, 1]], [1, 3])
    last, unknown = SPACE.time_bins(np.array([4 * YEAR_S, NAN]))
    assert by_state["time_bin"].tolist() == [[last, last], [unknown, unknown]]


def test_a_users_row_features_and_history_are_passed_on() -> None:
    inputs = inputs_of([[0], [1]], [2, 1])
    assert inputs["user"].tolist() == [2, 1]
    assert inputs["user_feature_ids"].tolist() == [[1], [2]]
    assert inputs["history"].tolist() == [[1, 5, 5], [1, 0, 2]]
    np.testing.assert_array_equal(inputs["history_tone"], STATES.tone[[2, 1]])
