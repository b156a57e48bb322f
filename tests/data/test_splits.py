"""Splits: nothing lost, nothing twice, nothing learned from the future, and the exact rows."""

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from candidfeed.data.splits import (
    PROTOCOLS,
    Split,
    check_no_leak,
    default_protocol,
    fold_splits,
    inner_split,
    make_split,
    rolling_splits,
)
from candidfeed.data.tables import TIME, Dataset
from candidfeed.errors import DataError

START = datetime(2020, 1, 1, tzinfo=UTC)
BY_TIME = ("temporal", "per-user-last", "leave-last-one")
NO_QUARANTINE = pl.DataFrame(
    schema={"file": pl.String, "row": pl.Int64, "reason": pl.String, "received": pl.String}
)


def dataset_of(
    rows: list[tuple],
    *,
    parts: list[str] | None = None,
    kinds: list[str] | None = None,
    more_items: tuple = (),
) -> Dataset:
    """Rows are (user_id, item_id, value, seconds after START), None where there is none."""
    users, items, values, seconds = zip(*rows, strict=True)
    times = [None if s is None else START + timedelta(seconds=s) for s in seconds]
    events = pl.DataFrame(
        {
            "user_id": list(users),
            "item_id": list(items),
            "kind": kinds or ["rating"] * len(rows),
            "value": pl.Series(values, dtype=pl.Float32),
            "timestamp": pl.Series(times, dtype=TIME),
        }
    )
    if parts:
        events = events.with_columns(part=pl.Series(parts))
    item_ids = pl.Series([*items, *more_items]).unique()
    return Dataset(
        name="log",
        events=events,
        users=pl.DataFrame({"user_id": pl.Series(users).unique()}),
        items=pl.DataFrame({"item_id": item_ids, "title": item_ids.cast(pl.String)}),
        user_features=(),
        item_features=(),
        quarantine=NO_QUARANTINE,
        rows_read=len(rows),
        max_bad_share=0.01,
        positive_kinds=("rating",),
        like_at=4.0,
    )


def pairs(split: Split, part: str) -> list[tuple]:
    events = getattr(split, part)
    return [
        (split.users.id_of(user), split.items.id_of(item))
        for user, item in zip(events.user, events.item, strict=True)
    ]


def all_rows(split: Split) -> list[int]:
    return sorted(np.concatenate([split.source.train, split.source.history, split.source.test]))


rows_with_times = st.lists(
    st.tuples(
        st.integers(1, 6), st.integers(1, 8), st.sampled_from([1.0, 4.5]), st.integers(0, 12)
    ),
    min_size=2,
    max_size=40,
)


# Every protocol


@given(rows=rows_with_times, protocol=st.sampled_from(list(PROTOCOLS)), seed=st.integers(0, 9))
def test_every_row_is_in_exactly_one_part_and_none_leaks(rows, protocol, seed):
    parts = ["train" if i % 3 else "test" for i in range(len(rows))]
    dataset = dataset_of(rows, parts=parts)
    try:
        split = make_split(dataset, protocol, seed=seed)
    except DataError:
        return
    assert all_rows(split) == list(range(len(rows)))
    assert len(split.train) > 0
    assert len(split.test) > 0
    check_no_leak(split)
    for part in ("train", "history", "test"):
        source = getattr(split.source, part)
        assert pairs(split, part) == [rows[i][:2] for i in source]
        assert getattr(split, part).value.tolist() == [rows[i][2] for i in source]
        times = [START.timestamp() + rows[i][3] for i in source]
        assert getattr(split, part).time_s.tolist() == times


@given(rows=rows_with_times, protocol=st.sampled_from(list(PROTOCOLS)), seed=st.integers(0, 9))
def test_the_inner_split_cuts_train_and_only_train(rows, protocol, seed):
    parts = [("train", "valid", "test")[i % 3] for i in range(len(rows))]
    try:
        split = make_split(dataset_of(rows, parts=parts), protocol, seed=seed)
        inner = inner_split(split, seed=seed)
    except DataError:
        return
    assert all_rows(inner) == sorted(split.source.train)
    assert len(inner.train) > 0
    assert len(inner.test) > 0
    check_no_leak(inner)


@given(rows=rows_with_times, seed=st.integers(0, 9))
def test_one_seed_gives_one_split(rows, seed):
    try:
        first, again = (make_split(dataset_of(rows), "random", seed=seed) for _ in range(2))
    except DataError:
        return
    np.testing.assert_array_equal(first.source.test, again.source.test)
    assert first.test_rows_sha256 == again.test_rows_sha256


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "keras-notebook"])
def test_rows_stand_in_the_order_of_the_source(protocol):
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(9)), int(rng.integers(9)), 1.0, int(rng.integers(99))) for _ in range(99)
    ]
    parts = rng.choice(["train", "valid", "test"], 99).tolist()
    split = make_split(dataset_of(rows, parts=parts), protocol)
    for part in (split.source.train, split.source.history, split.source.test):
        assert (np.diff(part) > 0).all()


def test_only_positive_kinds_enter_and_source_rows_count_the_others():
    rows = [(1, 1, None, 0), (1, 2, None, 1), (2, 1, None, 2), (2, 3, None, 3)]
    kinds = ["rating", "hide", "rating", "rating"]
    split = make_split(dataset_of(rows, kinds=kinds), "leave-last-one")
    assert split.source.train.tolist() == [0, 2]
    assert split.source.test.tolist() == [3]
    assert np.isnan(split.test.value).all()


def test_vocabularies_are_sorted_and_hold_items_that_nobody_touched():
    rows = [("b", "y", 1.0, 0), ("a", "x", 1.0, 1), ("b", "x", 1.0, 2)]
    split = make_split(dataset_of(rows, more_items=("w",)), "random")
    assert split.users.ids.to_list() == ["a", "b"]
    assert split.items.ids.to_list() == ["w", "x", "y"]
    assert (split.train.n_users, split.train.n_items) == (2, 3)


# The protocols of published tables


@pytest.mark.parametrize("seed", [42, 3])
def test_microsofts_rows_are_those_of_its_stratified_splitter(seed):
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(30)), int(rng.integers(9)), 1.0, None) for _ in range(200)]
    rows.append((0, 99, 1.0, None))
    split = make_split(dataset_of(rows), "microsoft", seed=seed)
    # As python_stratified_split(filter_by="item", ratio=0.75) words it: rank / count <= 0.75.
    draw = np.random.RandomState(seed).rand(len(rows))
    train = []
    for item in {row[1] for row in rows}:
        own = sorted((at for at, row in enumerate(rows) if row[1] == item), key=lambda at: draw[at])
        train += [at for rank, at in enumerate(own, 1) if rank / len(own) <= 0.75]
    assert split.source.train.tolist() == sorted(train)
    assert len(rows) - 1 in split.source.test


@pytest.mark.parametrize(
    ("n", "cut"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (9, (7, 1, 1)),
                   (10, (8, 1, 1)), (29, (25, 2, 2)), (30, (24, 3, 3))],
)  # fmt: skip
def test_recbole_takes_a_tenth_of_each_users_rows_twice(n, cut):
    rows = [(user, item, 1.0, None) for user in (0, 1) for item in range(n)]
    if n == 1:
        # A user with one row has none to be asked for; another one has.
        rows += [(2, item, 1.0, None) for item in range(3)]
    split = make_split(dataset_of(rows), "recbole", seed=1)
    parts = (split.train, split.history, split.test)
    assert tuple(int((part.user == 0).sum()) for part in parts) == cut


def test_recboles_history_is_known_but_not_learned_from():
    rows = [(user, item, 1.0, None) for user in range(3) for item in range(20)]
    split = make_split(dataset_of(rows), "recbole", seed=1)
    assert len(split.known) == len(split.train) + len(split.history) == 54
    other = make_split(dataset_of(rows), "recbole", seed=2)
    assert split.test_rows_sha256 != other.test_rows_sha256


# random and keras-notebook


@pytest.mark.parametrize("n", [2, 5, 7, 99, 100, 101])
def test_the_notebooks_rows_are_those_of_scikit_learn(n):
    rng = np.random.default_rng(n)
    rows = [(i, int(rng.integers(0, n // 2 + 1)), 1.0, None) for i in range(n)]
    rows[0], rows[1] = (0, 0, 1.0, None), (1, 1, 1.0, None)
    split = make_split(dataset_of(rows), "keras-notebook", seed=5)
    by_item = sorted(rows, key=lambda row: row[1])
    train, test = train_test_split(by_item, test_size=0.2, random_state=0)
    assert pairs(split, "train") == [row[:2] for row in train]
    assert pairs(split, "test") == [row[:2] for row in test]


def test_the_notebooks_split_of_ml_100k_is_the_published_one(ml_100k):
    split = make_split(ml_100k, "keras-notebook")
    assert list(zip(pairs(split, "test"), split.test.value, strict=True))[:5] == [
        ((330, 22), 5.0),
        ((805, 443), 5.0),
        ((578, 355), 1.0),
        ((648, 151), 2.0),
        ((405, 23), 5.0),
    ]
    assert split.test.value.mean(dtype=np.float64) == pytest.approx(3.53505, abs=1e-9)
    assert len(split.test) == 20_000


def test_a_random_split_tests_a_fifth_and_depends_on_the_seed():
    rows = [(i % 7, i, 1.0, None) for i in range(101)]
    split, other = (make_split(dataset_of(rows), "random", seed=seed) for seed in (42, 43))
    assert len(split.test) == 21
    expected = np.sort(np.random.default_rng(42).permutation(101)[:21])
    np.testing.assert_array_equal(split.source.test, expected)
    assert split.test_rows_sha256 != other.test_rows_sha256


# By time


def test_per_user_last_tests_the_last_fifth_rounded_up_and_keeps_ties_in_source_order():
    six = [("six", f"s{i}", 1.0, time) for i, time in enumerate([5, 1, 5, 2, 5, 0])]
    rows = [*six, ("two", "t0", 1.0, 9), ("two", "t1", 1.0, 8), ("one", "o0", 1.0, 1)]
    split = make_split(dataset_of(rows), "per-user-last")
    assert pairs(split, "test") == [("six", "s2"), ("six", "s4"), ("two", "t0")]
    assert pairs(split, "history") == []


def test_leave_last_one_tests_the_last_event_of_users_with_two():
    rows = [("a", "x", 1.0, 3), ("a", "y", 1.0, 1), ("a", "z", 1.0, 3), ("b", "x", 1.0, 9)]
    split = make_split(dataset_of(rows), "leave-last-one")
    assert pairs(split, "test") == [("a", "z")]
    assert pairs(split, "train") == [("a", "x"), ("a", "y"), ("b", "x")]


def test_temporal_cuts_at_one_instant_and_folds_in_the_first_half():
    early = [("a", f"e{i}", 1.0, i) for i in range(20)]
    late = [
        ("b", "1", 1.0, 33),
        ("a", "2", 1.0, 31),
        ("b", "3", 1.0, 30),
        ("b", "4", 1.0, 33),
        ("c", "5", 1.0, 32),
    ]
    split = make_split(dataset_of(early + late), "temporal")
    assert pairs(split, "train") == [row[:2] for row in early]
    # b has three late rows, so one is given; a and c have one, which is asked for.
    assert pairs(split, "history") == [("b", "3")]
    assert pairs(split, "test") == [("b", "1"), ("a", "2"), ("b", "4"), ("c", "5")]
    assert split.known.user.tolist() == split.train.user.tolist() + split.history.user.tolist()


def test_temporal_never_parts_rows_of_one_instant():
    times = [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    rows = [(i % 3, i, 1.0, time) for i, time in enumerate(times)]
    split = make_split(dataset_of(rows), "temporal")
    assert split.source.train.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_temporal_still_cuts_where_the_first_instant_holds_most_rows():
    rows = [(i % 3, i, 1.0, 0 if i < 9 else 5) for i in range(10)]
    split = make_split(dataset_of(rows), "temporal")
    assert split.source.train.tolist() == list(range(9))
    assert split.source.test.tolist() == [9]


@given(rows=rows_with_times, data=st.data())
def test_the_temporal_cut_does_not_depend_on_the_order_of_rows(rows, data):
    shuffled = data.draw(st.permutations(rows))
    try:
        splits = [make_split(dataset_of(r), "temporal") for r in (rows, shuffled)]
    except DataError:
        return
    trains = [sorted(zip(pairs(s, "train"), s.train.time_s, strict=True)) for s in splits]
    assert trains[0] == trains[1]


@given(rows=rows_with_times)
def test_per_user_protocols_test_no_row_before_a_train_row_of_its_user(rows):
    for protocol in ("per-user-last", "leave-last-one"):
        try:
            split = make_split(dataset_of(rows), protocol)
        except DataError:
            continue
        place = {row: (rows[row][3], row) for row in range(len(rows))}
        for tested in split.source.test:
            learned = [r for r in split.source.train if rows[r][0] == rows[tested][0]]
            assert learned
            assert max(place[r] for r in learned) < place[tested]


def test_the_temporal_split_of_ml_100k_has_the_known_size(ml_100k):
    split = make_split(ml_100k)
    assert split.protocol == "temporal"
    assert len(np.unique(split.test.user)) == 301
    assert (len(split.train), len(split.history), len(split.test)) == (79_999, 9_926, 10_075)
    cold = ~np.isin(split.test.user, split.train.user)
    assert cold.mean() == pytest.approx(0.85, abs=0.005)


# given


def test_given_learns_from_train_and_valid_and_its_inner_split_tests_valid():
    rows = [(1, 1, None, None), (1, 2, None, None), (2, 1, None, None), (2, 3, None, None)]
    split = make_split(dataset_of(rows, parts=["valid", "train", "train", "test"]), "given")
    assert split.source.train.tolist() == [0, 1, 2]
    assert split.source.test.tolist() == [3]
    inner = inner_split(split, seed=1)
    assert inner.source.train.tolist() == [1, 2]
    assert inner.source.test.tolist() == [0]
    assert inner.protocol == "given"


def test_given_without_a_valid_part_holds_out_a_random_fifth_of_each_user():
    rows = [(user, item, None, None) for user in range(3) for item in range(user * 5 + 1)]
    parts = ["test" if item == 0 and user else "train" for user, item, *_ in rows]
    split = make_split(dataset_of(rows, parts=parts), "given")
    inner, other = (inner_split(split, seed=seed) for seed in (1, 2))
    # 1, 5 and 10 train rows; the only row of a user is never held out.
    assert np.bincount(inner.test.user, minlength=3).tolist() == [0, 1, 2]
    assert inner.test_rows_sha256 != other.test_rows_sha256


# item-cold


def test_item_cold_moves_all_rows_of_a_tenth_of_the_items_to_test():
    rows = [(user, item, None, None) for user in range(6) for item in range(25)]
    split = make_split(dataset_of(rows), "item-cold", seed=3)
    new = set(split.test.item.tolist())
    assert len(new) == 3
    assert not new & set(split.train.item.tolist())
    assert len(split.test) == 3 * 6
    inner = inner_split(split, seed=3)
    assert inner.protocol == "item-cold"
    assert len(set(inner.test.item.tolist())) == 3
    assert not set(inner.test.item.tolist()) & (set(inner.train.item.tolist()) | new)


# inner_split


@pytest.mark.parametrize("protocol", ["random", "keras-notebook"])
def test_another_seed_gives_another_inner_split(protocol):
    split = make_split(dataset_of([(i % 7, i, 1.0, None) for i in range(100)]), protocol)
    first, other = (inner_split(split, seed=seed) for seed in (1, 2))
    assert len(first.test) == len(other.test) == 16
    assert first.test_rows_sha256 != other.test_rows_sha256


def test_the_inner_split_of_temporal_is_earlier_in_time_than_the_outer():
    split = make_split(dataset_of([(i % 7, i, 1.0, i) for i in range(100)]), "temporal")
    inner = inner_split(split, seed=1)
    assert inner.train.time_s.max() < inner.test.time_s.min()
    assert inner.test.time_s.max() < split.test.time_s.min()
    assert len(inner.train) == 64
    assert len(inner.history) > 0


def test_where_the_protocol_leaves_nothing_to_test_the_inner_split_is_random_and_says_so():
    rows = [(user, item, 1.0, item) for user in range(4) for item in range(2)]
    split = make_split(dataset_of(rows), "leave-last-one")
    assert inner_split(split, seed=1).protocol == "random"


def test_a_train_part_of_one_row_cannot_be_cut_again():
    split = make_split(dataset_of([(1, 1, 1.0, 0), (2, 2, 1.0, 1)]), "random")
    with pytest.raises(DataError, match="1 row, too few"):
        inner_split(split, seed=1)


# The hash of the test rows


def test_the_hash_is_of_the_documented_text():
    rows = [("u", "train", None, None), ("\tb\\", "é\n", 4.5, None), ("a", "x", None, None)]
    parts = ["train", "test", "test"]
    text = "\\tb\\\\\té\\n\t4.5\t\na\tx\t\t\n"
    split = make_split(dataset_of(rows, parts=parts), "given")
    assert split.test_rows_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_names_microseconds_and_integer_ids_without_rounding():
    rows = [(1, 2, 1.0, None), (2**60 + 1, 3, 1.1, 0.123457)]
    rows[0] = (1, 2, 1.0, 0.0)
    split = make_split(dataset_of(rows, parts=["train", "test"]), "given")
    text = f"{2**60 + 1}\t3\t{float(np.float32(1.1))!r}\t1577836800123457\n"
    assert split.test_rows_sha256 == hashlib.sha256(text.encode()).hexdigest()


@given(rows=rows_with_times, data=st.data())
def test_the_hash_does_not_depend_on_the_order_of_rows(rows, data):
    parts = ["train" if i % 3 else "test" for i in range(len(rows))]
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = dataset_of([rows[i] for i in order], parts=[parts[i] for i in order])
    try:
        split = make_split(dataset_of(rows, parts=parts), "given")
    except DataError:
        return
    assert make_split(shuffled, "given").test_rows_sha256 == split.test_rows_sha256


# Refusals


def test_the_default_is_temporal_then_given_then_random():
    with_times = [(1, 1, 1.0, 0), (2, 2, 1.0, 1)]
    without = [(1, 1, 1.0, None), (2, 2, 1.0, None)]
    assert default_protocol(dataset_of(with_times, parts=["train", "test"])) == "temporal"
    assert default_protocol(dataset_of(without, parts=["train", "test"])) == "given"
    assert default_protocol(dataset_of(without)) == "random"


def test_an_unknown_protocol_is_refused_with_the_nearest_name():
    with pytest.raises(DataError, match="no protocol 'temporl'; did you mean 'temporal'"):
        make_split(dataset_of([(1, 1, 1.0, 0), (2, 2, 1.0, 1)]), "temporl")


def test_a_negative_seed_is_refused():
    with pytest.raises(DataError, match="seed must be 0 or more, not -1"):
        make_split(dataset_of([(1, 1, 1.0, 0), (2, 2, 1.0, 1)]), "random", seed=-1)


@pytest.mark.parametrize("protocol", BY_TIME)
def test_a_log_without_times_is_refused_and_a_protocol_that_works_is_named(protocol):
    rows = [(1, 1, 1.0, None), (2, 2, 1.0, None)]
    with pytest.raises(DataError, match=rf"'{protocol}'.*the log has none; use 'random'"):
        make_split(dataset_of(rows), protocol)
    with pytest.raises(DataError, match="use 'given'"):
        make_split(dataset_of(rows, parts=["train", "test"]), protocol)


def test_given_is_refused_where_the_data_set_brings_no_split():
    with pytest.raises(DataError, match="brings no split of its own; use 'random'"):
        make_split(dataset_of([(1, 1, 1.0, None), (2, 2, 1.0, None)]), "given")


def test_a_log_of_one_instant_is_refused_with_the_numbers():
    rows = [(i % 3, i, 1.0, 7) for i in range(6)]
    message = "6 positive events by 3 users at 1 different time it would leave 6 to train on and 0"
    with pytest.raises(DataError, match=f"{message}.*use 'per-user-last'"):
        make_split(dataset_of(rows), "temporal")


def test_users_with_one_event_each_leave_nothing_to_test():
    rows = [(i, i, 1.0, i) for i in range(5)]
    with pytest.raises(DataError, match="5 to train on and 0 to test on; use 'random'"):
        make_split(dataset_of(rows), "leave-last-one")


def test_a_given_split_without_test_rows_is_refused():
    rows = [(1, 1, 1.0, None), (2, 2, 1.0, None)]
    with pytest.raises(DataError, match="2 to train on and 0 to test on; use 'random'"):
        make_split(dataset_of(rows, parts=["train", "valid"]), "given")


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([("me", 1, 1.0, 0), ("me", 2, 1.0, 1)], "user_id"),
        ([(1, "it", 1.0, 0), (2, "it", 1.0, 1)], "item_id"),
    ],
)
@pytest.mark.parametrize("protocol", ["random", "temporal"])
def test_one_user_or_one_item_is_refused(rows, column, protocol):
    with pytest.raises(DataError, match=rf"all 2 positive events have one {column} \('(me|it)'\)"):
        make_split(dataset_of(rows), protocol)


def test_a_log_without_positive_events_is_refused_with_the_kinds_it_has():
    dataset = dataset_of([(1, 1, 1.0, 0), (2, 2, 1.0, 1)], kinds=["hide", "view"])
    with pytest.raises(
        DataError, match="positive kinds: 'rating'; kinds in the log: 'hide', 'view'"
    ):
        make_split(dataset, "random")


# The leak guard


def leaky(split: Split, **changes) -> Split:
    return Split(**{**{f: getattr(split, f) for f in split.__dataclass_fields__}, **changes})


def test_the_leak_guard_finds_a_row_in_two_parts():
    split = make_split(dataset_of([(i % 3, i, 1.0, i) for i in range(20)]), "random")
    twice = leaky(
        split,
        train=split.train.concat(split.test.take([0])),
        source=type(split.source)(
            train=np.append(split.source.train, split.source.test[0]),
            history=split.source.history,
            test=split.source.test,
            valid=split.source.valid,
        ),
    )
    with pytest.raises(DataError, match="1 rows are in more than one"):
        check_no_leak(twice)


@pytest.mark.parametrize("protocol", BY_TIME)
def test_the_leak_guard_finds_train_rows_from_the_future(protocol):
    split = make_split(dataset_of([(i % 3, i, 1.0, i) for i in range(20)]), protocol)
    swapped = leaky(
        split,
        train=split.test,
        test=split.train,
        source=type(split.source)(
            split.source.test, split.source.history, split.source.train, split.source.valid
        ),
    )
    with pytest.raises(DataError, match=f"{len(split.test)} train rows are later"):
        check_no_leak(swapped)


def test_the_leak_guard_refuses_a_split_of_unknown_source():
    split = make_split(dataset_of([(i % 3, i, 1.0, i) for i in range(20)]), "random")
    with pytest.raises(ValueError, match="source rows do not align"):
        check_no_leak(leaky(split, source=type(split.source).unknown()))


# Folds


def test_folds_ask_for_every_row_once_and_keep_a_users_only_row_known():
    rng = np.random.default_rng(0)
    rows = [(u, i, 3.0, 0) for u in range(30) for i in rng.permutation(40)[: u % 12 + 1]]
    split = make_split(dataset_of(rows), "random", seed=3)
    folds = list(fold_splits(split, n_folds=4, seed=3))
    n_of_user = np.bincount(split.train.user, minlength=30)
    asked = np.concatenate([fold.source.test for fold in folds])
    may_be_asked = split.source.train[n_of_user[split.train.user] > 1]
    assert sorted(asked) == sorted(may_be_asked)
    for fold in folds:
        together = np.concatenate([fold.source.train, fold.source.test])
        assert sorted(together) == sorted(split.source.train)
        assert len(fold.history) == 0
        # As evenly as it goes: of a user's n rows a fold asks for n // 4 or one more.
        n_asked = np.bincount(fold.test.user, minlength=30)
        several = n_of_user > 1
        assert (np.abs(n_asked - n_of_user / 4)[several] < 1).all()
        assert (n_asked[~several] == 0).all()


def test_one_seed_gives_the_same_folds_and_another_others():
    split = make_split(dataset_of([(u, i, 1.0, 0) for u in range(5) for i in range(9)]), "random")
    first = [[fold.source.test.tolist() for fold in fold_splits(split, n_folds=3, seed=s)]
             for s in (1, 1, 2)]  # fmt: skip
    assert first[0] == first[1] != first[2]


def test_rolling_cuts_ask_for_the_fifth_that_comes_next_and_know_nothing_later():
    rows = [("abcde"[t % 5], f"i{t}", 3.0, t) for t in range(100)]
    split = make_split(dataset_of(rows), "temporal")
    early, late = rolling_splits(split, starts=(0.4, 0.6))
    for cut, start in ((early, 32), (late, 48)):
        in_time = np.sort(split.train.time_s)
        assert cut.train.time_s.tolist() == in_time[:start].tolist()
        asked = np.sort(np.concatenate([cut.history.time_s, cut.test.time_s]))
        assert asked.tolist() == in_time[start : start + 16].tolist()
        for user in range(5):
            given = cut.history.time_s[cut.history.user == user]
            # 16 rows of five users: three or four each, of which one or two are given.
            assert len(given) in (1, 2)
            assert given.max() < cut.test.time_s[cut.test.user == user].min()
        check_no_leak(cut)


def test_a_rolling_cut_with_nothing_before_it_is_left_out():
    rows = [("ab"[t % 2], f"i{t}", 3.0, t // 8) for t in range(20)]
    split = make_split(dataset_of(rows), "temporal")
    assert list(rolling_splits(split, starts=(0.0, 0.1))) == []


def test_one_fold_is_refused():
    split = make_split(dataset_of([(u, i, 1.0, 0) for u in range(2) for i in range(5)]), "random")
    with pytest.raises(ValueError, match="1 folds; 2 is the least"):
        list(fold_splits(split, n_folds=1, seed=0))
