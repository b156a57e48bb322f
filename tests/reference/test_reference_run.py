"""Fitting, measuring and asking a classic model, from a data set to figures."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error
from tensorboardX.proto.event_pb2 import Event

from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError, DataError
from candidfeed.evaluation.reference_examples import (
    best_titles,
    expected_rating,
    find_item,
    find_user,
    first_titles,
)
from candidfeed.evaluation.reference_run import WATCHED, ReferenceRun, run_reference
from candidfeed.reference.models import TfrsRetrieval
from candidfeed.reference.published import REFERENCES
from candidfeed.reference.training import predict

# Keras' own variables answer NumPy 2 in the way of NumPy 1 when weights are read.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)


def run(dataset: Dataset, name: str, *, n_seeds: int = 1, logs: Path | None = None) -> ReferenceRun:
    return run_reference(
        dataset,
        REFERENCES[name],
        protocol="random",
        seed=7,
        n_seeds=n_seeds,
        epochs=2,
        logs=logs,
    )


def test_a_rating_models_figures_are_those_of_scikit_learn(small: Dataset) -> None:
    done = run(small, "keras-dot")
    test = make_split(small, "random", seed=7).test
    predicted = predict(done.model, test.user, test.item)
    found = done.report.models["keras-dot"]
    assert found["mse"].mean == pytest.approx(mean_squared_error(test.value, predicted))
    assert found["mae"].mean == pytest.approx(mean_absolute_error(test.value, predicted))
    assert found["rmse"].mean == pytest.approx(found["mse"].mean ** 0.5)


def test_a_retrieval_models_top_k_is_that_of_a_slow_loop(small: Dataset) -> None:
    done = run(small, "tfrs-retrieval")
    split = make_split(small, "random", seed=7)
    assert isinstance(done.model, TfrsRetrieval)
    scores = done.model.user_vectors() @ done.model.item_vectors().T
    seen, unseen = 0, 0
    for user, item in zip(split.test.user, split.test.item, strict=True):
        above = scores[user] > scores[user, item]
        mine = split.train.item[split.train.user == user]
        seen += above.sum() < 5
        unseen += above.sum() - above[mine].sum() < 5
    found = done.report.models["tfrs-retrieval"]
    assert found["top@5/seen"].mean == pytest.approx(seen / len(split.test))
    assert found["top@5"].mean == pytest.approx(unseen / len(split.test))
    assert list(done.curves) == ["loss", "val_loss", WATCHED]
    # All ten items are in the top hundred.
    assert done.curves[WATCHED] == [1.0, 1.0]


def test_the_json_has_the_shape_of_evaluate_and_the_curves(small: Dataset) -> None:
    content = json.loads(json.dumps(run(small, "tfrs-ranking").to_json(), allow_nan=False))
    assert (content["dataset"], content["protocol"], content["seed"]) == ("small", "random", 7)
    assert content["test_rows_sha256"] == make_split(small, "random", seed=7).test_rows_sha256
    assert set(content["models"]) == {"tfrs-ranking"}
    assert set(content["models"]["tfrs-ranking"]["rmse"]) == {"mean", "low", "high"}
    assert content["seconds"]["tfrs-ranking"] > 0
    assert {k: len(v) for k, v in content["curves"]["tfrs-ranking"].items()} == {
        "loss": 2,
        "val_loss": 2,
    }


def test_a_loss_that_is_not_finite_is_null_in_the_json(small: Dataset) -> None:
    diverged = replace(run(small, "tfrs-ranking"), curves={"loss": [1.5, float("nan")]})
    assert diverged.to_json()["curves"] == {"tfrs-ranking": {"loss": [1.5, None]}}


def test_seeds_are_averaged_and_each_is_told(small: Dataset, tmp_path: Path) -> None:
    both = run(small, "tfrs-ranking", n_seeds=2, logs=tmp_path)
    content = both.to_json()
    by_seed = [seed["models"]["tfrs-ranking"]["mae"] for seed in content["by_seed"]]
    assert [seed["seed"] for seed in content["by_seed"]] == [7, 8]
    assert by_seed[0] != by_seed[1]
    assert both.report.models["tfrs-ranking"]["mae"].mean == pytest.approx(np.mean(by_seed))
    first = run(small, "tfrs-ranking")
    assert first.report.models["tfrs-ranking"]["mae"].mean == by_seed[0]
    assert first.curves["loss"] != both.curves["loss"]
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders == ["tfrs-ranking-seed7", "tfrs-ranking-seed8"]
    assert all(list(path.glob("events.out.tfevents.*")) for path in tmp_path.iterdir())


def test_tensorboard_is_told_each_epochs_figures(small: Dataset, tmp_path: Path) -> None:
    done = run(small, "tfrs-retrieval", logs=tmp_path)
    (path,) = tmp_path.glob("*/events.out.tfevents.*")
    written: dict[str, list[float]] = {}
    content, place = path.read_bytes(), 0
    while place < len(content):
        # A TFRecord: the length, its checksum, the event, its checksum.
        (length,) = struct.unpack_from("<Q", content, place)
        event = Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length
        for value in event.summary.value:
            written.setdefault(value.tag, []).append(value.simple_value)
    assert written == {
        "train/loss": pytest.approx(done.curves["loss"]),
        "validation/loss": pytest.approx(done.curves["val_loss"]),
        "validation/top_at_100/seen": pytest.approx(done.curves[WATCHED]),
    }


def test_each_epoch_is_reported(small: Dataset) -> None:
    epochs = []
    run_reference(
        small,
        REFERENCES["tfrs-ranking"],
        protocol="random",
        seed=7,
        n_seeds=1,
        epochs=3,
        on_epoch=lambda: epochs.append(1),
    )
    assert len(epochs) == 3


@pytest.mark.parametrize("name", [n for n, r in REFERENCES.items() if r.kind == "rating"])
def test_a_rating_model_refuses_a_data_set_without_ratings(small: Dataset, name: str) -> None:
    clicks = replace(small, like_at=None)
    with pytest.raises(ConfigError, match=f"{name} predicts ratings, and small has none"):
        run(clicks, name)


def test_a_retrieval_model_needs_no_ratings(small: Dataset) -> None:
    values = pl.lit(None, dtype=pl.Float32).alias("value")
    clicks = replace(small, like_at=None, events=small.events.with_columns(values))
    assert "ndcg@10" in run(clicks, "tfrs-retrieval").report.models["tfrs-retrieval"]


def test_rows_without_a_rating_are_neither_learned_from_nor_asked_for(small: Dataset) -> None:
    rated = pl.when(pl.int_range(pl.len()) % 4 > 0).then(pl.col("value"))
    gaps = replace(small, events=small.events.with_columns(rated.alias("value")))
    done = run(gaps, "tfrs-ranking")
    assert all(np.isfinite(done.curves["loss"] + done.curves["val_loss"]))
    test = make_split(gaps, "random", seed=7).test
    assert done.report.runs[0].n_test_rows == np.isfinite(test.value).sum() < len(test)


def test_a_log_whose_ratings_are_all_missing_is_refused(small: Dataset) -> None:
    empty = replace(
        small,
        events=small.events.with_columns(pl.lit(None, dtype=pl.Float32).alias("value")),
    )
    with pytest.raises(DataError, match="0 train rows and 0 test rows have a rating"):
        run(empty, "tfrs-ranking")


# Examples


def test_first_titles_are_the_highest_scores_of_all_items(small: Dataset) -> None:
    done = run(small, "tfrs-retrieval")
    assert isinstance(done.model, TfrsRetrieval)
    scores = done.model.user_vectors()[2] @ done.model.item_vectors().T
    order = np.argsort(-scores)[:5]
    mine = done.split.train.item[done.split.train.user == 2]
    titles = first_titles(done, small, 3)
    assert [one.title for one in titles] == [f"Item {row}" for row in order]
    assert [one.score for one in titles] == pytest.approx(scores[order])
    assert [one.is_known for one in titles] == np.isin(order, mine).tolist()


def test_best_titles_are_the_highest_ratings_of_what_the_user_does_not_know(
    small: Dataset,
) -> None:
    done = run(small, "keras-dot")
    unknown = np.setdiff1d(np.arange(10), done.split.train.item[done.split.train.user == 2])
    ratings = predict(done.model, np.full(len(unknown), 2), unknown)
    order = np.argsort(-ratings)[:3]
    titles = best_titles(done, small, 3)
    assert [one.title for one in titles] == [f"Item {row}" for row in unknown[order]]
    assert [one.score for one in titles] == pytest.approx(ratings[order])
    assert not any(one.is_known for one in titles)


def test_an_expected_rating_stands_beside_what_the_user_gave(small: Dataset) -> None:
    done = run(small, "keras-dot")
    test = done.split.test
    user = int(test.user[0])
    by_wish = expected_rating(done, small, user + 1, int(test.item[0]) + 101)
    unasked = expected_rating(done, small, user + 1, None)
    assert by_wish == unasked
    assert (by_wish.rating, by_wish.part) == (float(test.value[0]), "test")
    assert by_wish.predicted == predict(done.model, [user], [int(test.item[0])])[0]
    nothing = expected_rating(done, small, 1, 101)
    assert np.isnan(nothing.rating)
    assert nothing.part == ""


def test_the_user_is_42_or_the_first_unless_one_is_wished_for(small: Dataset) -> None:
    assert find_user(small, None) == 1
    assert find_user(small, "3") == 3
    ids = pl.Series("user_id", ["a b", "42", "é"])
    named = replace(small, users=pl.DataFrame({"user_id": ids}))
    assert find_user(named, None) == "42"
    assert find_user(named, "a b") == "a b"
    with pytest.raises(ConfigError, match="no user 'x' in small; it has 3, such as 'a b'"):
        find_user(named, "x")


def test_a_title_that_is_not_there_is_told_the_nearest(small: Dataset) -> None:
    assert find_item(small, "Item 4") == 105
    with pytest.raises(ConfigError, match="no title 'Itme 4' in small; did you mean 'Item 4'"):
        find_item(small, "Itme 4")


# The real data


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("tfrs-retrieval", {"top@100/seen": (0.18, 0.02)}),
        ("tfrs-ranking", {"rmse": (1.11, 0.03)}),
        ("keras-dot", {"mse": (0.90, 0.03), "mae": (0.735, 0.012)}),
        ("keras-deep", {"mse": (0.885, 0.03), "mae": (0.735, 0.012)}),
    ],
)
def test_on_ml_100k_the_published_figures_come_out(
    ml_100k: Dataset, name: str, figures: dict[str, tuple[float, float]]
) -> None:
    reference = REFERENCES[name]
    done = run_reference(
        ml_100k,
        reference,
        protocol=reference.protocol,
        seed=42,
        n_seeds=1,
        epochs=reference.epochs,
    )
    for metric, (expected, tolerance) in figures.items():
        assert done.report.models[name][metric].mean == pytest.approx(expected, abs=tolerance)
