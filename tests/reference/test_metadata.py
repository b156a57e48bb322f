"""What the hybrid model is told of users and items."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError
from candidfeed.reference import metadata
from candidfeed.reference.metadata import metadata_of


def test_features_stand_in_named_columns_beside_popularity(small: Dataset) -> None:
    found = metadata_of(small, make_split(small, "random"))
    assert set(found.user_columns) == {"job=?", "job=baker", "job=nurse"}
    assert set(found.item_columns) == {"popularity", "tags=?", "tags=even", "tags=new", "tags=odd"}
    baker = found.user[:, found.user_columns.index("job=baker")]
    np.testing.assert_array_equal(baker, [0, 1] * 6)
    even = found.item[:, found.item_columns.index("tags=even")]
    np.testing.assert_array_equal(even, [1, 0] * 5)


def test_sensitive_features_and_texts_are_left_out(small: Dataset) -> None:
    found = metadata_of(small, make_split(small, "random"))
    named = " ".join(found.user_columns + found.item_columns)
    assert "age" not in named
    assert "words" not in named


def test_popularity_is_the_share_of_train_rows_with_a_less_popular_item(small: Dataset) -> None:
    split = make_split(small, "random")
    train = replace(split.train.take(np.arange(4)), item=np.array([7, 7, 7, 2], dtype=np.int32))
    popularity = metadata_of(small, replace(split, train=train)).item[:, 0]
    # Item 7 has three of four rows: one row is below, three tie and count half. Item 2 has one row,
    # which counts half. The others have none.
    assert popularity[7] == (1 + 3 / 2) / 4
    assert popularity[2] == (1 / 2) / 4
    assert popularity.sum() == popularity[7] + popularity[2]


def test_test_rows_change_nothing(small: Dataset) -> None:
    split = make_split(small, "random")
    fewer = replace(split, test=split.test.take(np.arange(1)))
    np.testing.assert_array_equal(metadata_of(small, split).item, metadata_of(small, fewer).item)


def test_rows_follow_the_vocabulary_and_not_the_tables(small: Dataset) -> None:
    shuffled = replace(
        small, users=small.users.sample(fraction=1.0, shuffle=True, seed=3), items=small.items[::-1]
    )
    split = make_split(small, "random")
    as_read, as_shuffled = metadata_of(small, split), metadata_of(shuffled, split)
    np.testing.assert_array_equal(as_read.user, as_shuffled.user)
    np.testing.assert_array_equal(as_read.item, as_shuffled.item)


def test_a_data_set_without_features_has_popularity_alone(small: Dataset) -> None:
    bare = replace(small, user_features=(), item_features=())
    found = metadata_of(bare, make_split(bare, "random"))
    assert found.user.shape == (12, 0)
    assert found.item.shape == (10, 1)


def test_a_missing_value_is_told_apart(small: Dataset) -> None:
    jobs = pl.Series("job", [None, *small.users["job"][1:]])
    gaps = replace(small, users=small.users.with_columns(jobs))
    found = metadata_of(gaps, make_split(gaps, "random"))
    np.testing.assert_array_equal(found.user[0], [c == "job=?" for c in found.user_columns])


def test_metadata_that_no_dense_table_can_hold_is_refused(
    small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "MAX_NUMBERS", 20)
    with pytest.raises(ConfigError, match=r"12 rows of user_id with 4 columns.*use keras-deep"):
        metadata_of(small, make_split(small, "random"))
