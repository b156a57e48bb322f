"""FeatureMap: what is known of people and items as arrays, the same in training and in serving."""

import json
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.features import (
    MAX_VALUES,
    MAX_WIDTH,
    MIN_WORD_COUNT,
    PADDING,
    Bag,
    FeatureMap,
)
from candidfeed.data.tables import TIME, Feature, FeatureKind
from candidfeed.errors import DataError

DTYPES = {
    "category": pl.String,
    "tags": pl.List(pl.String),
    "text": pl.List(pl.String),
    "number": pl.Float32,
    "bucket": pl.Float32,
    "time": TIME,
}
SEEN = {
    "category": ["a", "b", "a"],
    "tags": [["x", "y"], ["x"], ["z"]],
    "text": [["red", "hat"], ["red", "hat"], ["red", "hat"]],
    "number": [1.0, 2.0, 6.0],
    "bucket": [1.0, 2.0, 6.0],
    "time": [datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 9)],
}
KINDS = tuple(SEEN)
each_kind = pytest.mark.parametrize("kind", KINDS)


def column(kind: FeatureKind, values: list) -> pl.DataFrame:
    return pl.DataFrame({"f": pl.Series(values, dtype=DTYPES[kind])})


def fit(kind: FeatureKind, values: list) -> FeatureMap:
    return FeatureMap.fit(column(kind, values), (Feature("f", kind),))


def named(features: FeatureMap, bag: Bag) -> list[dict[str, float]]:
    """Each row as {name of the id: weight}, padding left out."""
    return [
        {
            features.name_of(int(i)): float(w)
            for i, w in zip(ids, weights, strict=True)
            if i != PADDING
        }
        for ids, weights in zip(bag.ids, bag.weights, strict=True)
    ]


def encoded(features: FeatureMap, kind: FeatureKind, values: list) -> list[dict[str, float]]:
    return named(features, features.encode(column(kind, values)))


def all_kinds(values: dict[str, list]) -> pl.DataFrame:
    return pl.DataFrame({kind: pl.Series(values[kind], dtype=DTYPES[kind]) for kind in KINDS})


EVERYTHING = tuple(Feature(kind, kind) for kind in KINDS)


def test_a_category_is_one_id_of_weight_one() -> None:
    features = fit("category", ["cat", "dog", "cat", None])
    assert encoded(features, "category", ["dog", "cat"]) == [{"f=dog": 1.0}, {"f=cat": 1.0}]


def test_tags_share_a_norm_of_one() -> None:
    features = fit("tags", [["a", "b", "c", "d"], ["a"]])
    half = pytest.approx(0.5)
    assert encoded(features, "tags", [["d", "b", "a", "c"], ["a"]]) == [
        {"f=a": half, "f=b": half, "f=c": half, "f=d": half},
        {"f=a": 1.0},
    ]


def test_a_tag_or_word_that_is_repeated_counts_once() -> None:
    for kind in ("tags", "text"):
        features = fit(kind, [["a", "b"], ["a", "b"], ["a", "b"]])
        root = pytest.approx(np.sqrt(0.5))
        assert encoded(features, kind, [["a", "a", "b", "a"]]) == [{"f=a": root, "f=b": root}]


def test_the_order_of_a_rows_tags_does_not_matter() -> None:
    features = fit("tags", [["a", "b", "c"], ["b"]])
    bag = features.encode(column("tags", [["a", "b", "c"], ["c", "b", "a"]]))
    np.testing.assert_array_equal(bag.ids[0], bag.ids[1])
    np.testing.assert_array_equal(bag.weights[0], bag.weights[1])


def test_a_tag_that_training_did_not_see_leaves_the_others_alone() -> None:
    features = fit("tags", [["a"]])
    assert encoded(features, "tags", [["a", "new"]]) == [{"f=a": 1.0}]


def test_a_number_is_standardised_and_clipped() -> None:
    features = fit("number", [1.0, 3.0])
    asked = [1.0, 2.0, 4.0, 1e6, -1e6]
    weights = features.encode(column("number", asked)).weights[:, 0]
    np.testing.assert_array_equal(weights, np.array([-1, 0, 2, 5, -5], np.float32))
    assert encoded(features, "number", [3.0]) == [{"f": 1.0}]


def test_a_bucket_holds_its_lower_end_and_not_its_upper() -> None:
    features = fit("bucket", [float(n) for n in range(101)])
    found = encoded(features, "bucket", [-5.0, 9.9, 10.0, 19.9, 89.9, 90.0, 1e9])
    names = ["..10", "..10", "10..20", "10..20", "80..90", "90..", "90.."]
    assert found == [{f"f={name}": 1.0} for name in names]


def test_a_time_falls_in_a_range_of_dates() -> None:
    days = pl.date_range(date(2020, 1, 1), date(2020, 4, 10), eager=True).cast(TIME)
    features = fit("time", days.to_list())
    asked = [datetime(2020, 1, 12, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)]
    assert encoded(features, "time", asked) == [
        {"f=2020-01-11..2020-01-21": 1.0},
        {"f=2020-03-31..": 1.0},
    ]


def test_rare_words_and_rare_words_alone_are_left_out() -> None:
    titles = [["the", "end"]] * MIN_WORD_COUNT + [["the", "rare", "rare", "rare", "rare"]]
    features = fit("text", titles)
    assert features.columns[0].values == ("the", "end")
    assert encoded(features, "text", [["rare"]]) == [{"f=?": 1.0}]


def test_the_most_frequent_values_are_kept_and_ties_go_by_name() -> None:
    values = [f"v{n:05}" for n in range(MAX_VALUES + 5)]
    features = fit("category", [*reversed(values), "v01003"])
    assert features.columns[0].values == ("v01003", *values[: MAX_VALUES - 1])


def test_more_tags_than_fit_keep_the_most_frequent() -> None:
    features = fit("tags", [["a", "b"], ["a", "c"], ["a", "b"]])
    root = pytest.approx(np.sqrt(0.5))
    assert encoded(features, "tags", [["c", "b", "a"]]) == [{"f=a": root, "f=b": root}]


def test_one_row_with_very_many_tags_does_not_widen_all() -> None:
    features = fit("tags", [[f"t{n}" for n in range(MAX_WIDTH + 9)], ["t1"]])
    bag = features.encode(column("tags", [["t1"]]))
    assert bag.ids.shape == (1, MAX_WIDTH)


@each_kind
def test_a_missing_value_has_an_id_of_its_own(kind: FeatureKind) -> None:
    features = fit(kind, SEEN[kind])
    assert encoded(features, kind, [None]) == [{"f=?": 1.0}]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("category", "new"),
        ("tags", []),
        ("tags", ["new", "newer"]),
        ("tags", [None]),
        ("text", []),
        ("text", ["new"]),
        ("number", float("nan")),
        ("number", float("inf")),
        ("bucket", float("nan")),
    ],
)
def test_an_unknown_value_counts_as_missing(kind: FeatureKind, value: object) -> None:
    features = fit(kind, SEEN[kind])
    assert encoded(features, kind, [value]) == [{"f=?": 1.0}]


@each_kind
def test_a_column_that_training_never_saw_filled_knows_no_value(kind: FeatureKind) -> None:
    for never in ([None, None], []):
        features = fit(kind, never)
        assert encoded(features, kind, [None]) == [{"f=?": 1.0}]
        bag = features.encode(column(kind, SEEN[kind]))
        assert np.isfinite(bag.weights).all()
        assert (bag.ids < features.n_ids).all()


def test_nan_and_null_do_not_move_a_numbers_mean_or_edges() -> None:
    gaps = [1.0, float("nan"), 3.0, None, float("inf")]
    for kind in ("number", "bucket"):
        assert fit(kind, gaps).columns == fit(kind, [1.0, 3.0]).columns


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, -7.7, 1e9, 1e30])
def test_a_constant_number_has_weight_zero_and_others_stay_finite(value: float) -> None:
    features = fit("number", [value] * 1_003)
    weights = features.encode(column("number", [value, value + 1])).weights[:, 0]
    assert weights[0] == 0
    assert np.isfinite(weights).all()
    assert features.columns[0].scale == 1.0


@pytest.mark.parametrize("kind", ["bucket", "time"])
def test_a_constant_bucket_tells_below_from_the_rest(kind: FeatureKind) -> None:
    low, value, high = SEEN[kind]
    features = fit(kind, [value] * 5)
    below, same, above = encoded(features, kind, [low, value, high])
    assert below != same == above


def test_what_is_encoded_changes_nothing_that_was_fitted() -> None:
    train, later = column("category", ["a", "b"]), column("category", ["a", "c", "c"])
    features = FeatureMap.fit(train, (Feature("f", "category"),))
    before = features.to_json()
    features.encode(later)
    assert features.to_json() == before
    assert features.columns[0].values == ("a", "b")


def test_sensitive_columns_are_never_read() -> None:
    table = column("category", ["a", "b"])
    features = FeatureMap.fit(table, (Feature("gender", "category", sensitive=True),))
    assert features.columns == ()
    bag = features.encode(table)
    np.testing.assert_array_equal(bag.ids, [[PADDING], [PADDING]])
    np.testing.assert_array_equal(bag.weights, [[0], [0]])


def test_every_id_has_a_name_and_each_column_its_own() -> None:
    features = FeatureMap.fit(all_kinds(SEEN), EVERYTHING)
    names = [features.name_of(i) for i in range(features.n_ids)]
    assert names[PADDING] == ""
    assert features.name_of(features.n_ids) == features.name_of(-1) == ""
    assert len(set(names)) == features.n_ids
    for kind in KINDS:
        own = [name for name in names if name.split("=")[0] == kind]
        assert own[0] == f"{kind}=?"
        assert len(own) == next(c.size for c in features.columns if c.name == kind)


def test_each_column_counts_as_much_as_another() -> None:
    features = FeatureMap.fit(all_kinds(SEEN), EVERYTHING)
    bag = features.encode(all_kinds(SEEN))
    for fitted in features.columns:
        if fitted.kind == "number":
            continue
        own = (bag.ids >= fitted.offset) & (bag.ids < fitted.offset + fitted.size)
        norm = np.sqrt(np.where(own, bag.weights**2, 0).sum(axis=1))
        np.testing.assert_allclose(norm, 1, rtol=1e-6)


def test_a_map_read_back_from_json_encodes_the_same() -> None:
    gaps = {kind: [None, *SEEN[kind]] for kind in KINDS}
    features = FeatureMap.fit(all_kinds(SEEN), EVERYTHING)
    text = json.dumps(features.to_json(), allow_nan=False)
    again = FeatureMap.from_json(json.loads(text))
    assert again == features
    first, second = features.encode(all_kinds(gaps)), again.encode(all_kinds(gaps))
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.weights, second.weights)


odd_text = st.text(max_size=12) | st.sampled_from(["a b", "a,b", "🎬", "?", "=", "", "^f$", "*"])


@given(
    rows=st.lists(
        st.tuples(
            st.none() | odd_text,
            st.none() | st.lists(odd_text, max_size=6),
            st.none() | st.floats(width=32),
        ),
        max_size=12,
    ),
    n_train=st.integers(0, 12),
)
def test_a_row_encodes_alone_as_it_does_among_others(rows: list, n_train: int) -> None:
    kinds = ("category", "tags", "number")
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    table = pl.DataFrame(
        {k: pl.Series(list(c), dtype=DTYPES[k]) for k, c in zip(kinds, columns, strict=True)}
    )
    features = FeatureMap.fit(table[:n_train], tuple(Feature(k, k) for k in kinds))
    bag = features.encode(table)
    assert bag.ids.dtype == np.int32
    assert bag.weights.dtype == np.float32
    assert len(bag) == len(rows)
    for place in range(len(rows)):
        alone = features.encode(table[place : place + 1])
        np.testing.assert_array_equal(alone.ids[0], bag.ids[place])
        np.testing.assert_array_equal(alone.weights[0], bag.weights[place])
        real = bag.ids[place][bag.ids[place] != PADDING]
        assert len(set(real)) == len(real)
        assert (bag.weights[place][bag.ids[place] == PADDING] == 0).all()


def test_values_with_spaces_commas_and_emoji_stay_apart() -> None:
    values = ["a b", "a", "b", "a,b", "😀", "😀😀", " a", "?"]
    features = fit("category", values)
    assert encoded(features, "category", values) == [{f"f={value}": 1.0} for value in values]


@pytest.mark.parametrize("name", ["n", "n_rows", "row", "value", "id", "*", "^f.*$", "", "place"])
def test_a_column_may_have_any_name(name: str) -> None:
    for kind in ("category", "tags", "number"):
        table = pl.DataFrame({name: pl.Series(SEEN[kind], dtype=DTYPES[kind]), "other": [1, 2, 3]})
        features = FeatureMap.fit(table, (Feature(name, kind),))
        expected = fit(kind, SEEN[kind]).encode(column(kind, SEEN[kind]))
        np.testing.assert_array_equal(features.encode(table).ids, expected.ids)


def test_a_request_may_hold_plain_python_values() -> None:
    features = FeatureMap.fit(all_kinds(SEEN), EVERYTHING)
    moment = SEEN["time"][0]
    values = {"category": "a", "tags": ["x"], "text": ["hat"], "number": 2, "bucket": 2}
    request = pl.DataFrame([{**values, "time": moment}])
    stored = all_kinds({kind: [v] for kind, v in {**values, "time": moment}.items()})
    np.testing.assert_array_equal(features.encode(request).ids, features.encode(stored).ids)
    nothing = pl.DataFrame({kind: [None] for kind in KINDS})
    assert all(name.endswith("=?") for name in named(features, features.encode(nothing))[0])


def test_a_request_s_number_is_rounded_as_the_stored_one_was() -> None:
    # The nearest Float32 to 0.1, which is an edge here, is greater than 0.1.
    features = fit("bucket", [0.1, 0.1, 0.7])
    request = pl.DataFrame({"f": pl.Series([0.1], dtype=pl.Float64)})
    stored = features.encode(column("bucket", [0.1]))
    np.testing.assert_array_equal(features.encode(request).ids, stored.ids)


def test_a_missing_column_is_named() -> None:
    feature = Feature("colour", "category")
    with pytest.raises(DataError, match=r"column 'colour' is missing; got \['f'\]"):
        FeatureMap.fit(column("category", ["a"]), (feature,))
    features = FeatureMap.fit(pl.DataFrame({"colour": ["red"]}), (feature,))
    with pytest.raises(DataError, match=r"column 'colour' is missing; got \['f'\]"):
        features.encode(column("category", ["a"]))


@pytest.mark.parametrize(
    ("kind", "values"),
    [("number", ["tall"]), ("number", [["a"]]), ("tags", ["a"]), ("category", [["a"]])],
)
def test_a_column_of_the_wrong_type_is_named(kind: FeatureKind, values: list) -> None:
    features = fit(kind, SEEN[kind])
    with pytest.raises(DataError, match=rf"column 'f' can't be a {kind} feature with type"):
        features.encode(pl.DataFrame({"f": values}))


def test_rows_without_a_known_value_are_counted_by_column() -> None:
    features = FeatureMap.fit(all_kinds(SEEN), EVERYTHING)
    nothing = all_kinds({kind: [None] for kind in KINDS})
    table = pl.concat([all_kinds(SEEN), nothing, nothing])
    assert features.n_unknown(features.encode(table).ids) == dict.fromkeys(KINDS, 2)
    assert features.n_unknown(features.encode(all_kinds(SEEN)).ids) == {}
    assert features.n_unknown(features.encode(nothing[:0]).ids) == {}


def test_an_empty_table_is_an_empty_bag() -> None:
    features = FeatureMap.fit(all_kinds(SEEN), EVERYTHING)
    width = features.encode(all_kinds(SEEN)).ids.shape[1]
    assert features.encode(all_kinds(SEEN).clear()).ids.shape == (0, width)


def test_a_column_without_features_still_has_a_bag_a_row() -> None:
    bag = FeatureMap(()).encode(column("number", [1.0, 2.0]))
    assert bag.ids.shape == bag.weights.shape == (2, 1)
    assert FeatureMap(()).n_ids == 1
