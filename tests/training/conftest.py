"""Both stages fitted on the tiny log, and small data sets that are hard in one way each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from candidfeed.data.splits import Split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.ranking.settings import RankerSettings
from candidfeed.retrieval.training import TowerSettings
from candidfeed.training.stage_one import StageOneSettings
from candidfeed.training.two_stage import TwoStage, TwoStageSettings, fit_two_stage

SEED = 7


@pytest.fixture(scope="session")
def brief() -> TwoStageSettings:
    """One epoch, and fewer candidates than items."""
    return TwoStageSettings(
        n_candidates=10,
        stage_one=StageOneSettings(tower=TowerSettings(n_epochs=1, dim=4)),
        ranker=RankerSettings(n_epochs=1, dim=2, members=2, list_length=8),
        value_weights={"engaged": 1.0, "liked": 0.5},
    )


@pytest.fixture(scope="session")
def pair(tiny_parts: dict[str, Any]) -> TwoStage:
    """Both stages as the tiny build fitted them to be measured: the test part was held out."""
    return tiny_parts["evaluate_once"].pair


@pytest.fixture(scope="session")
def split(pair: TwoStage) -> Split:
    return pair.split


@pytest.fixture(scope="session")
def fitted_on(brief: TwoStageSettings) -> Callable[[Dataset], TwoStage]:
    def fit(dataset: Dataset) -> TwoStage:
        return fit_two_stage(dataset, make_split(dataset, seed=SEED), settings=brief, seed=SEED)

    return fit


@pytest.fixture
def bare(tiny: Dataset) -> Dataset:
    """Neither ratings nor times, and nothing is known of the items."""
    events = tiny.events.with_columns(
        pl.lit(None, dtype=pl.Float32).alias("value"),
        pl.lit(None, dtype=tiny.events.schema["timestamp"]).alias("timestamp"),
    )
    return replace(
        tiny, events=events, like_at=None, item_features=(),
        items=tiny.items.select("item_id", "title"),
    )  # fmt: skip


@pytest.fixture
def three_users(tiny: Dataset) -> Dataset:
    users = tiny.users.filter(pl.col("user_id").is_in(tiny.events["user_id"].unique().sort()[:3]))
    events = tiny.events.filter(pl.col("user_id").is_in(users["user_id"]))
    return replace(tiny, users=users, events=events, rows_read=len(events))
