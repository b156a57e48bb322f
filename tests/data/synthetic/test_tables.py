"""What is known of the users and items of a synthetic world."""

import tomllib

import numpy as np
import polars as pl
import pytest

from candidfeed.config import DatasetConfig
from candidfeed.data.synthetic.events import KINDS
from candidfeed.data.synthetic.settings import START, WorldSettings
from candidfeed.data.synthetic.tables import CONFIG, item_table, user_table
from candidfeed.data.synthetic.world import World, make_world

SETTINGS = WorldSettings(n_users=4_000, n_items=3_000, n_events=1_000, seed=0)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS)


@pytest.fixture(scope="module")
def users(world: World) -> pl.DataFrame:
    return user_table(world)


@pytest.fixture(scope="module")
def items(world: World) -> pl.DataFrame:
    return item_table(world)


def test_the_configuration_names_the_columns_that_there_are(
    users: pl.DataFrame, items: pl.DataFrame
) -> None:
    config = tomllib.loads(CONFIG)
    assert tuple(config["events"]["kinds"]) == KINDS
    for table, frame in (("users", users), ("items", items)):
        features = config[table]["features"]
        assert {one.get("column", name) for name, one in features.items()} <= set(frame.columns)
    kinds = [
        one["kind"] for table in ("users", "items") for one in config[table]["features"].values()
    ]
    assert set(kinds) == {"category", "tags", "number", "bucket", "text", "time"}
    assert DatasetConfig.model_fields.keys() >= config.keys()


def test_age_and_gender_are_sensitive() -> None:
    features = tomllib.loads(CONFIG)["users"]["features"]
    assert [name for name, one in features.items() if one.get("sensitive")] == ["age", "gender"]


def test_ids_are_rows(users: pl.DataFrame, items: pl.DataFrame) -> None:
    assert users["user_id"].to_list() == list(range(4_000))
    assert items["item_id"].to_list() == list(range(3_000))


def test_some_of_what_is_known_is_missing(users: pl.DataFrame, items: pl.DataFrame) -> None:
    def missing(column: pl.Series) -> float:
        return column.null_count() / len(column)

    assert missing(users["age"]) == pytest.approx(0.05, abs=0.02)
    assert missing(users["gender"]) == pytest.approx(0.03, abs=0.015)
    # Three in ten declare nothing, and of the others those who declare none of four.
    assert missing(users["interests"]) == pytest.approx(0.3 + 0.7 * 0.4**3 * 0.7, abs=0.03)
    assert missing(items["tags"]) == pytest.approx(0.15 * 0.6**2, abs=0.02)
    assert users.null_count()["country"].item() == 0
    assert items.drop("tags").null_count().sum_horizontal().item() == 0


def test_ages_lie_in_the_group_of_their_user(world: World, users: pl.DataFrame) -> None:
    first = users.filter(pl.Series(world.users.age_group == 0))["age"].drop_nulls()
    assert (first.min(), first.max()) == (13, 17)
    assert users["age"].max() <= 80


def test_items_of_a_cluster_share_a_category_most_of_the_time(
    world: World, items: pl.DataFrame
) -> None:
    counts = (
        items.with_columns(cluster=pl.Series(world.items.cluster))
        .group_by("cluster", "category")
        .len()
        .group_by("cluster")
        .agg(pl.col("len").max() / pl.col("len").sum(), n=pl.col("len").sum())
    )
    # One in twenty is drawn anew, and then lands in the same category about once in four.
    share = (counts["len"] * counts["n"]).sum() / 3_000
    assert share == pytest.approx(1 - 0.05 * 0.75, abs=0.02)
    assert items["category"].n_unique() == 4


def test_declared_interests_name_what_the_user_likes(
    world: World, users: pl.DataFrame, items: pl.DataFrame
) -> None:
    tagged = items.with_columns(cluster=pl.Series(world.items.cluster)).drop_nulls("tags")
    name_of = {
        cluster: rows["tags"].str.split("|").explode().mode().first()
        for (cluster,), rows in tagged.group_by("cluster")
    }
    declared = users["interests"].str.split("|").to_list()
    told = [
        name_of[favourites[0]] in tags
        for favourites, tags in zip(world.users.clusters[:, 0].tolist(), declared, strict=True)
        if tags and len(set(favourites)) == 3
    ]
    # Six in ten declare it, of those who declare anything at all; a few more by chance.
    assert np.mean(told) == pytest.approx(0.6 / (1 - 0.4**3 * 0.7), abs=0.03)


def test_longer_items_are_better(world: World, items: pl.DataFrame) -> None:
    logs = np.log(items["minutes"].to_numpy())
    # 0.8 * quality of deviation 0.5, and noise of deviation 0.5.
    expected = 0.4 / np.hypot(0.4, 0.5)
    assert np.corrcoef(logs, world.items.quality)[0, 1] == pytest.approx(expected, abs=0.03)


def test_an_item_is_published_before_it_is_shown_first(world: World, items: pl.DataFrame) -> None:
    since_s = items["published"].dt.epoch("s").to_numpy() - START.timestamp()
    shown_s = world.items.tick * 6 * 3_600
    assert np.all(since_s <= shown_s)
    assert np.all(since_s > shown_s - 6 * 3_600)


def test_a_creator_keeps_to_one_cluster(world: World, items: pl.DataFrame) -> None:
    made = items.with_columns(cluster=pl.Series(world.items.cluster)).group_by("creator")
    assert made.agg(pl.col("cluster").n_unique())["cluster"].max() == 1
    assert 20 < items["creator"].n_unique() <= 27 * (3_000 // (20 * 27))


def test_every_title_has_three_words(items: pl.DataFrame) -> None:
    assert items["title"].str.split(" ").list.len().unique().to_list() == [3]
