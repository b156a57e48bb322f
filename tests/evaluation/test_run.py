"""One evaluation: every model on the same rows, and the agreed JSON."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import DataError
from candidfeed.evaluation import run as module
from candidfeed.evaluation.run import Evaluation, evaluate, evaluate_once
from candidfeed.training.two_stage import TwoStage, TwoStageSettings

RANKED = {
    "two-stage", "retrieval", "ranker", "popular", "popular-recent", "item-knn", "ease", "ials",
}  # fmt: skip
RATED = {"ranker", "mean-rating", "bias-rating"}


@pytest.fixture(scope="module")
def once(tiny_parts: dict[str, Any]) -> Evaluation:
    """What the tiny build measured."""
    return tiny_parts["evaluate_once"]


@pytest.fixture
def already_fitted(once: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages come as they are, for the split that is asked for."""

    def fit(_dataset: Dataset, split: Any, **_settings: Any) -> TwoStage:
        return replace(once.pair, split=split)

    monkeypatch.setattr(module, "fit_two_stage", fit)


def run(
    dataset: Dataset, settings: TwoStageSettings, *, n_seeds: int = 1, protocol: str | None = None
) -> tuple[dict[str, Any], list[Evaluation]]:
    report, evaluations = evaluate(
        dataset, protocol=protocol, seed=7, n_seeds=n_seeds, settings=settings
    )
    return json.loads(json.dumps(report.to_json(), allow_nan=False)), evaluations


def test_every_model_is_measured_under_its_agreed_name(once: Evaluation) -> None:
    figures = once.run.figures
    assert figures.keys() == RANKED | RATED
    assert figures.keys() == once.run.seconds.keys()
    ranking = {"top@100", "ndcg@10", "recall@20", "precision@5", "map@10", "mrr", "hit@10"}
    for name in RANKED:
        assert ranking <= figures[name].keys()
    for name in RATED:
        assert {"rmse", "mse", "mae"} <= figures[name].keys()
    assert {"auc", "logloss", "ece"} <= figures["ranker"].keys()
    assert once.left_out == {}


def test_the_served_list_has_no_figures_with_known_items_kept(once: Evaluation) -> None:
    kept = {
        name: [metric for metric in metrics if metric.endswith("/seen")]
        for name, metrics in once.run.figures.items()
    }
    assert kept["two-stage"] == []
    assert kept["retrieval"] == [f"top@{k}/seen" for k in (1, 5, 10, 50, 100)]


def test_what_was_chosen_is_told(once: Evaluation) -> None:
    chosen = once.run.chosen
    assert chosen["ease"].keys() == {"l2"}
    assert chosen["ranker"].keys() >= {"features", "n_candidates", "value_weights", "neighbour"}
    assert chosen["retrieval"].keys() >= {"closed", "n_epochs"}


def test_the_json_is_as_agreed(
    tiny: Dataset, tiny_settings: TwoStageSettings, already_fitted: None
) -> None:
    content, evaluations = run(tiny, tiny_settings)
    split = make_split(tiny, seed=7)
    assert content["dataset"] == tiny.name
    assert content["protocol"] == "temporal"
    assert content["seed"] == 7
    assert content["test_rows_sha256"] == split.test_rows_sha256
    assert content["n_test_rows"] == len(split.test)
    assert content["models"].keys() == content["seconds"].keys() == RANKED | RATED
    for metrics in content["models"].values():
        for figure in metrics.values():
            assert figure.keys() == {"mean", "low", "high"}
            assert figure["low"] <= figure["mean"] <= figure["high"]
    assert len(evaluations) == 1


def test_two_seeds_are_two_runs_whose_mean_is_given(
    tiny: Dataset, tiny_settings: TwoStageSettings, already_fitted: None
) -> None:
    content, evaluations = run(tiny, tiny_settings, n_seeds=2, protocol="random")
    assert [each.run.seed for each in evaluations] == [7, 8]
    hashes = [each.run.test_rows_sha256 for each in evaluations]
    assert hashes == [make_split(tiny, "random", seed=s).test_rows_sha256 for s in (7, 8)]
    assert hashes[0] != hashes[1]
    assert [each["seed"] for each in content["by_seed"]] == [7, 8]
    for name in ("popular", "two-stage"):
        means = [each.run.figures[name]["ndcg@10"].value() for each in evaluations]
        assert content["models"][name]["ndcg@10"]["mean"] == pytest.approx(np.mean(means))


def test_too_many_pairs_leave_out_ranking_everything_and_say_so(
    tiny: Dataset,
    tiny_settings: TwoStageSettings,
    already_fitted: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_RANKED_PAIRS", 10)
    split = make_split(tiny, seed=7)
    found = evaluate_once(tiny, split, settings=tiny_settings, seed=7)
    n_pairs = len(np.unique(split.test.user)) * 40
    assert found.left_out == {"ranker": f"it would have to score {n_pairs:,} pairs"}
    # Its ratings are measured all the same.
    assert found.run.figures["ranker"].keys() == {
        "rmse", "mse", "mae", "auc", "logloss", "brier", "ece",
    }  # fmt: skip


def test_without_times_the_recent_baseline_is_left_out_and_without_ratings_their_figures(
    tiny: Dataset, tiny_settings: TwoStageSettings, already_fitted: None
) -> None:
    events = tiny.events.with_columns(
        pl.lit(None, dtype=pl.Float32).alias("value"),
        pl.lit(None, dtype=tiny.events.schema["timestamp"]).alias("timestamp"),
    )
    bare = replace(tiny, events=events, like_at=None)
    found = evaluate_once(bare, make_split(bare, seed=7), settings=tiny_settings, seed=7)
    assert found.left_out == {"popular-recent": "the log has no times"}
    assert found.run.figures.keys() == RANKED - {"popular-recent"}
    assert "mse" not in found.run.figures["ranker"]


def test_a_split_that_leaks_is_refused_before_anything_is_fitted(
    tiny: Dataset, tiny_settings: TwoStageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "fit_two_stage")
    split = make_split(tiny, seed=7)
    source = replace(split.source, test=split.source.train[: len(split.test)])
    with pytest.raises(DataError, match="split leaks"):
        evaluate_once(tiny, replace(split, source=source), settings=tiny_settings, seed=7)


def test_of_many_test_users_some_are_drawn_with_all_their_rows(tiny: Dataset) -> None:
    split = make_split(tiny, seed=7)
    everyone = np.unique(split.test.user)
    assert module.with_test_users(split, len(everyone)) is split
    some = module.with_test_users(split, 5)
    drawn = np.unique(some.test.user)
    assert len(drawn) == 5
    np.testing.assert_array_equal(some.test.item, split.test.item[np.isin(split.test.user, drawn)])
    assert some.known.matrix.nnz == split.known.matrix.nnz
    again = module.with_test_users(split, 5)
    np.testing.assert_array_equal(again.test.user, some.test.user)


def test_measuring_leaves_the_features_of_the_items_as_they_are() -> None:
    # Out of order: padding, which has no weight, stands behind a known id.
    ids, weights = np.array([[3, 0], [2, 1]], np.int32), np.float32([[1, 0], [0.6, 0.8]])
    bag = Bag(ids.copy(), weights.copy())
    vectors = module._item_vectors(bag, 4)
    assert vectors is not None
    vectors.sort_indices()
    vectors.data[:] = 9
    np.testing.assert_array_equal(bag.ids, ids)
    np.testing.assert_array_equal(bag.weights, weights)
    assert module._item_vectors(bag, 1) is None
