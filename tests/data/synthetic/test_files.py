"""Synthetic worlds on disk: reproducible, exact in size, and a data set like any other."""

import hashlib
import json
import shutil
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from candidfeed.data.checks import require_usable
from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.data.synthetic import files as synthetic_files
from candidfeed.data.synthetic.files import read_positives, read_world, write_world
from candidfeed.data.synthetic.oracle import Oracle
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.world import make_world
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError, DataError
from candidfeed.evaluation.baselines import Ials
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.retrieval.popularity import Popular

SETTINGS = WorldSettings(n_users=1_500, n_items=900, n_events=120_000, seed=11)
NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world; not to be changed."""
    folder = tmp_path_factory.mktemp("synthetic") / "world"
    write_world(SETTINGS, folder)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(str(folder), cache=folder, now=NOW)


def sums(folder: Path) -> dict[str, str]:
    files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
    return {
        str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest() for one in files
    }


def rows(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(one) for one in sorted((folder / "events").iterdir())])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_one_seed_gives_the_same_bytes_on_any_number_of_threads(
    folder: Path, tmp_path: Path, n_threads: int
) -> None:
    write_world(SETTINGS, tmp_path / "again", n_threads=n_threads)
    assert sums(tmp_path / "again") == sums(folder)


def test_how_the_log_is_cut_into_parts_changes_no_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_files, "PART_BLOCKS", 1)
    written = write_world(SETTINGS, tmp_path / "parts")
    assert written.n_parts == 3
    assert len(list((tmp_path / "parts" / "events").iterdir())) == 3
    assert rows(tmp_path / "parts").equals(rows(folder))


def test_another_seed_gives_another_log(folder: Path, tmp_path: Path) -> None:
    write_world(replace(SETTINGS, seed=12), tmp_path / "other")
    assert not rows(tmp_path / "other").equals(rows(folder))


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_events"), [(1, 1, 1), (50, 30, 2_000), (2, 2_000, 7), (300, 2, 999)]
)
def test_a_small_world_has_exactly_as_many_events_as_asked_for(
    tmp_path: Path, n_users: int, n_items: int, n_events: int
) -> None:
    written = write_world(WorldSettings(n_users, n_items, n_events, seed=0), tmp_path / "w")
    log = rows(tmp_path / "w")
    assert len(log) == sum(written.kinds.values()) == n_events
    counted = dict(log["kind"].cast(pl.String).value_counts().iter_rows())
    assert {kind: n for kind, n in written.kinds.items() if n} == counted
    dataset = load_dataset(str(tmp_path / "w"), cache=tmp_path, now=NOW)
    assert (len(dataset.users), len(dataset.items)) == (n_users, n_items)
    assert len(dataset.quarantine) == 0


def test_a_world_is_a_data_set_that_can_be_trained_on(dataset: Dataset) -> None:
    assert require_usable(dataset) is None
    assert dataset.name == "world"
    assert len(dataset.events) == 120_000
    assert dataset.positive_kinds == ("click", "like")
    assert set(dataset.events["kind"]) == {"impression", "click", "like", "hide"}
    assert [one.name for one in dataset.user_features if one.sensitive] == ["age", "gender"]
    assert make_split(dataset).protocol == "temporal"


def test_popular_is_beaten_by_ials_and_ials_by_the_oracle(folder: Path, dataset: Dataset) -> None:
    split = make_split(dataset)
    ials = Ials.fit(split.train, known=split.known, factors=32, regularization=30, alpha=5, seed=0)
    during = (split.test.time_s.min(), split.test.time_s.max())
    models = (Popular.fit(split.train), ials, Oracle.open(folder).during(*during))
    known, test = split.known.matrix, split.test.matrix
    ndcg = [evaluate_ranking(one, known=known, test=test).mean("ndcg@10") for one in models]
    assert 1.4 * ndcg[0] < ndcg[1] < 0.8 * ndcg[2]


def test_the_oracle_that_is_read_is_the_one_that_drew_the_log(folder: Path) -> None:
    world, drawn = read_world(folder), make_world(SETTINGS)
    assert world.settings == SETTINGS
    for group in ("users", "items"):
        ours, theirs = getattr(world, group), getattr(drawn, group)
        for field in fields(ours):
            assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    oracle = Oracle.open(folder)
    scores = oracle.scores(np.array([7]), oracle.end_s)
    assert np.array_equal(scores, Oracle.of(drawn).scores(np.array([7]), oracle.end_s))


def test_positives_are_those_of_the_data_set(folder: Path, dataset: Dataset) -> None:
    quickly = read_positives(folder)
    slowly = dataset.events.filter(pl.col("kind").is_in(["click", "like"]))
    assert quickly.user.tolist() == slowly["user_id"].to_list()
    assert quickly.item.tolist() == slowly["item_id"].to_list()
    assert quickly.time_s.tolist() == (slowly["timestamp"].dt.epoch("us").to_numpy() / 1e6).tolist()
    assert np.isnan(quickly.value).all()
    assert (quickly.n_users, quickly.n_items) == (1_500, 900)


def test_the_world_file_says_how_the_world_was_made(folder: Path) -> None:
    told = json.loads((folder / "world.json").read_text())
    assert told["settings"]["seed"] == 11
    assert told["settings"]["examine_exponent"] == SETTINGS.examine_exponent
    assert sum(told["kinds"].values()) == 120_000
    assert told["n_clusters"] == 15


def test_progress_ends_at_all_events(tmp_path: Path) -> None:
    told: list[int] = []
    write_world(replace(SETTINGS, n_events=5_000), tmp_path / "w", progress=told.append)
    assert told[-1] == 5_000


# The folder


def test_an_older_world_is_replaced(tmp_path: Path) -> None:
    small = replace(SETTINGS, n_events=100)
    write_world(small, tmp_path / "w")
    write_world(replace(small, seed=1), tmp_path / "w")
    assert read_world(tmp_path / "w").settings.seed == 1
    assert [one.name for one in tmp_path.iterdir()] == ["w"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"'thesis\.txt'.*nothing was touched"):
        write_world(SETTINGS, tmp_path / "w")
    assert (tmp_path / "w" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_run_that_ends_early_leaves_the_older_world_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    small = replace(SETTINGS, n_events=100)
    write_world(small, tmp_path / "w")
    before = sums(tmp_path / "w")
    real = synthetic_files._write_table

    def fail(table: pl.DataFrame, path: Path) -> None:
        if path.parent.name == "events":
            raise error
        real(table, path)

    monkeypatch.setattr(synthetic_files, "_write_table", fail)
    with pytest.raises(type(error)):
        write_world(replace(small, seed=1), tmp_path / "w")
    assert sums(tmp_path / "w") == before
    assert [one.name for one in tmp_path.iterdir()] == ["w"]


# Reading


def test_a_folder_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no synthetic world \(no file 'world.json'\)"):
        Oracle.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not what was written"),
        ('{"format": 1}', "is not what was written"),
        ('{"format": 2}', "is of format 2, this version reads 1"),
        ('{"format": 1, "settings": {"n_users": 0}}', "is not what was written"),
    ],
)
def test_a_damaged_world_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "world.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_world(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "short"])
def test_a_damaged_array_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(folder, tmp_path / "w")
    path = tmp_path / "w" / "oracle" / "items-quality.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        np.save(path, np.zeros(899, dtype=np.float32))
    with pytest.raises(DataError, match=r"items-quality\.npy: is not what was written"):
        read_world(tmp_path / "w")
