"""Side features: learned from those whom train names, known of all."""

from dataclasses import replace

import numpy as np
import polars as pl

from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.training.side_features import side_features


def test_bags_stand_in_the_order_of_the_vocabularies(tiny: Dataset, split: Split) -> None:
    shuffled = replace(
        tiny,
        users=tiny.users.sample(fraction=1, shuffle=True, seed=1),
        items=tiny.items.sample(fraction=1, shuffle=True, seed=1),
    )
    features, same = side_features(tiny, split), side_features(shuffled, split)
    assert (len(features.user_bag), len(features.item_bag)) == (len(split.users), len(split.items))
    np.testing.assert_array_equal(features.user_bag.ids, same.user_bag.ids)
    np.testing.assert_array_equal(features.item_bag.ids, same.item_bag.ids)
    jobs = dict(tiny.users.select("user_id", "job").iter_rows())
    of_job: dict[str, set[tuple[int, ...]]] = {}
    for user_id, ids in zip(split.users.ids, features.user_bag.ids.tolist(), strict=True):
        of_job.setdefault(jobs[user_id], set()).add(tuple(ids))
    assert {job: len(ids) for job, ids in of_job.items()} == {"baker": 1, "nurse": 1}
    assert of_job["baker"] != of_job["nurse"]


def test_what_only_test_users_and_items_have_is_not_learned(tiny: Dataset, split: Split) -> None:
    in_train = split.users.ids[np.unique(split.train.user)]
    is_late = ~pl.col("user_id").is_in(in_train.implode())
    job = pl.when(is_late).then(pl.lit("pilot")).otherwise("job").alias("job")
    late = replace(tiny, users=tiny.users.with_columns(job))
    assert (late.users["job"] == "pilot").any()
    features = side_features(late, split)
    values = [value for column in features.user_map.columns for value in column.values]
    assert sorted(values) == ["baker", "nurse"]


def test_sensitive_features_are_in_no_bag(tiny: Dataset, split: Split) -> None:
    features = side_features(tiny, split)
    assert [column.name for column in features.user_map.columns] == ["job"]
    assert "owner" not in [column.name for column in features.item_map.columns]


def test_a_table_without_features_gives_padding(tiny: Dataset, split: Split) -> None:
    features = side_features(replace(tiny, user_features=(), item_features=()), split)
    for bag, n, fitted in (
        (features.user_bag, len(split.users), features.user_map),
        (features.item_bag, len(split.items), features.item_map),
    ):
        assert fitted.n_ids == 1
        assert len(bag) == n
        assert not bag.ids.any()
        assert not bag.weights.any()
