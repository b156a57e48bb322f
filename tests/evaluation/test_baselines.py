"""The baselines: tuned on train alone, folding in what is known, quiet and repeatable."""

import dataclasses
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split, make_split
from candidfeed.data.tables import TIME, Dataset
from candidfeed.errors import DataError
from candidfeed.evaluation import baselines
from candidfeed.evaluation.baselines import BASELINES, Ials, fit_baselines, untuned, why_left_out
from candidfeed.evaluation.ranking_metrics import evaluate_ranking
from candidfeed.evaluation.rating_baselines import (
    BiasRating,
    MeanRating,
    fit_rating_baselines,
)
from candidfeed.retrieval.neighbours import Ease


def log_of_two_tastes(n_users: int = 40, *, with_times: bool = True) -> Dataset:
    """Even users touch items 0 to 9, odd users items 10 to 19, eight each, now and then another."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        own = rng.choice(10, 8, replace=False) + 10 * (user % 2)
        rows += [(user, int(item), float(rng.integers(1, 6))) for item in own]
        rows.append((user, int(rng.integers(0, 20)), 1.0))
    rows = list({row[:2]: row for row in rows}.values())
    user, item, value = zip(*rows, strict=True)
    seconds = pl.Series(rng.integers(0, 10**6, len(rows)))
    timestamp = pl.from_epoch(seconds, "s").cast(TIME)
    events = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "kind": ["rating"] * len(rows),
            "value": pl.Series(value, dtype=pl.Float32),
            "timestamp": timestamp if with_times else pl.Series([None] * len(rows), dtype=TIME),
        }
    )
    item_ids = pl.Series(range(20))
    return Dataset(
        name="two tastes",
        events=events,
        users=pl.DataFrame({"user_id": range(n_users)}),
        items=pl.DataFrame({"item_id": item_ids, "title": item_ids.cast(pl.String)}),
        user_features=(),
        item_features=(),
        quarantine=pl.DataFrame(),
        rows_read=len(rows),
        max_bad_share=0.01,
        positive_kinds=("rating",),
        like_at=4.0,
    )


def ndcg(scorer, split: Split, k: int = 10) -> float:
    figures = evaluate_ranking(scorer, known=split.known.matrix, test=split.test.matrix)
    return figures.mean(f"ndcg@{k}")


def events_of(rows: list[tuple[int, int, float]], *, n_users: int, n_items: int) -> Interactions:
    user, item, value = zip(*rows, strict=True)
    return Interactions(
        user=np.array(user, dtype=np.int32),
        item=np.array(item, dtype=np.int32),
        value=np.array(value, dtype=np.float32),
        time_s=np.full(len(rows), np.nan),
        n_users=n_users,
        n_items=n_items,
    )


# All of them


@pytest.mark.parametrize("protocol", ["random", "temporal", "leave-last-one"])
def test_every_baseline_scores_every_item_of_every_user(protocol):
    split = make_split(log_of_two_tastes(), protocol)
    fitted = fit_baselines(split, seed=1)
    assert tuple(fitted) == BASELINES
    assert why_left_out(split) == {}
    for scorer, seconds in fitted.values():
        scores = scorer.scores(np.array([3, 0, 39], dtype=np.int32))
        assert scores.shape == (3, 20)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
        assert seconds >= 0


def test_those_that_know_the_user_find_their_taste_and_popular_does_not():
    split = make_split(log_of_two_tastes(), "random")
    fitted = fit_baselines(split, seed=1)
    popular = ndcg(fitted["popular"][0], split)
    for name in ("item-knn", "ease", "ials"):
        assert ndcg(fitted[name][0], split) > popular + 0.2


def test_hyperparameters_do_not_depend_on_test():
    split = make_split(log_of_two_tastes(), "random")
    half = dataclasses.replace(split, test=split.test.take(np.arange(5)))
    other_fitted = fit_baselines(half, seed=1)
    for name, (scorer, _) in fit_baselines(split, seed=1).items():
        other = other_fitted[name][0]
        assert scorer.settings == other.settings
        users = np.arange(40, dtype=np.int32)
        np.testing.assert_array_equal(scorer.scores(users), other.scores(users))


def test_the_chosen_l2_of_ease_is_the_best_on_the_inner_split():
    split = make_split(log_of_two_tastes(), "random")
    chosen = fit_baselines(split, seed=3)["ease"][0].settings["l2"]
    inner = inner_split(split, seed=3)
    by_l2 = {
        l2: ndcg(Ease.fit(inner.train, known=inner.known, l2=l2), inner, k=100)
        for l2 in (30, 100, 300, 1000, 3000)
    }
    assert by_l2[chosen] == max(by_l2.values())


def test_a_log_without_times_has_no_popular_recent_and_the_reason_is_told():
    split = make_split(log_of_two_tastes(with_times=False), "random")
    assert why_left_out(split) == {"popular-recent": "the log has no times"}
    assert tuple(fit_baselines(split, seed=1)) == ("popular", "item-knn", "ease", "ials")


def test_a_catalogue_too_large_for_ease_is_told_and_left_out():
    split = make_split(log_of_two_tastes(), "random")
    large = dataclasses.replace(split, train=dataclasses.replace(split.train, n_items=50_000))
    assert "ease on 50,000 items would invert a matrix of" in why_left_out(large)["ease"]


def test_a_log_too_small_to_choose_by_takes_the_first_of_each_grid():
    dataset = log_of_two_tastes()
    tiny = dataclasses.replace(dataset, events=dataset.events.filter(pl.col("user_id") < 2)[7:10])
    fitted = fit_baselines(make_split(tiny, "random"), seed=1)
    assert fitted["ease"][0].settings == {"l2": 300}
    assert fitted["item-knn"][0].settings == {"k": 100, "shrink": 10}


@pytest.mark.parametrize(("limit", "least"), [("MAX_TUNED_EVENTS", 200), ("MAX_TUNED_ITEMS", 19)])
def test_of_a_log_that_is_too_large_the_first_of_each_grid_is_taken_and_told(
    monkeypatch, limit, least
):
    split = make_split(log_of_two_tastes(), "random")
    assert untuned(split) == ()
    monkeypatch.setattr(baselines, limit, least)
    assert untuned(split) == ("popular-recent", "item-knn", "ease", "ials")
    first = {name: dict(stages[0][0]) for name, stages in baselines._GRIDS.items()}
    fitted = fit_baselines(split, seed=1)
    assert {name: dict(scorer.settings) for name, (scorer, _) in fitted.items()} == first


def test_on_a_large_catalogue_l2_is_chosen_on_the_most_popular_items(monkeypatch):
    split = make_split(log_of_two_tastes(), "random")
    held_out = baselines._hold_out(split, 1)
    assert held_out is not None
    few = held_out.of_most_popular(5)
    counts = held_out.train.matrix.sum(axis=0).A1
    kept = np.sort(np.argsort(-counts, kind="stable")[:5])
    np.testing.assert_array_equal(
        few.train.matrix.toarray(), held_out.train.matrix.toarray()[:, kept]
    )
    np.testing.assert_array_equal(few.targets.toarray(), held_out.targets.toarray()[:, kept])
    monkeypatch.setattr(baselines, "_MAX_TUNING_ITEMS", 5)
    assert fit_baselines(split, seed=1)["ease"][0].scores(np.arange(2)).shape == (2, 20)


# iALS


SMALL = {"factors": 8, "regularization": 1.0, "alpha": 5.0, "seed": 0}


def test_ials_folds_in_what_is_known_of_a_user_who_is_not_in_train():
    split = make_split(log_of_two_tastes(), "random")
    old = split.train.take(split.train.user < 38)
    known = old.concat(split.train.take(np.isin(split.train.user, [38, 39])))
    scores = Ials.fit(old, known=known, **SMALL).scores(np.array([38, 39], dtype=np.int32))
    assert scores[0, :10].mean() > scores[0, 10:].mean() + 0.3
    assert scores[1, 10:].mean() > scores[1, :10].mean() + 0.3


def test_ials_solves_the_users_equation():
    split = make_split(log_of_two_tastes(), "random")
    model = Ials.fit(split.train, known=split.train, **SMALL)
    items = model.model.item_factors.astype(np.float64)
    for user in range(3):
        touched = split.train.matrix[user].indices
        # Hu et al., eq. 4, with confidence alpha on what was touched and 1 on the rest.
        confidence = np.ones(20)
        confidence[touched] = 5.0
        left = (items.T * confidence) @ items + 1.0 * np.eye(8)
        factors = np.linalg.solve(left, 5.0 * items[touched].sum(axis=0))
        scores = model.scores(np.array([user], dtype=np.int32))[0]
        np.testing.assert_allclose(scores, items @ factors, atol=1e-4)


def test_ials_gives_a_stranger_the_popular_order():
    split = make_split(log_of_two_tastes(), "random")
    known = split.train.take(split.train.user != 4)
    scores = Ials.fit(split.train, known=known, **SMALL).scores(np.array([4], dtype=np.int32))
    assert scores[0].tolist() == split.train.matrix.sum(axis=0).A1.tolist()


def test_one_seed_gives_one_ials():
    train = make_split(log_of_two_tastes(), "random").train
    users = np.arange(40, dtype=np.int32)
    first, again = (Ials.fit(train, known=train, **SMALL).scores(users) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = Ials.fit(train, known=train, **{**SMALL, "seed": 1}).scores(users)
    assert not np.array_equal(first, other)


def test_the_library_neither_warns_nor_prints_where_blas_has_threads():
    code = (
        "import numpy as np\n"
        "from candidfeed.data.interactions import Interactions\n"
        "from candidfeed.evaluation.baselines import Ials\n"
        "rows = np.arange(4, dtype=np.int32)\n"
        "train = Interactions(rows, rows, rows.astype('f4'), rows.astype('f8'), 4, 4)\n"
        "model = Ials.fit(train, known=train, factors=2, regularization=1, alpha=1, seed=0)\n"
        "model.scores(rows)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"OPENBLAS_NUM_THREADS": "2", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# On real data


def test_ease_reaches_the_known_figures_on_ml_100k(ml_100k):
    split = make_split(ml_100k, "random")
    model = Ease.fit(split.train, known=split.known, l2=300)
    figures = evaluate_ranking(model, known=split.known.matrix, test=split.test.matrix)
    assert figures.mean("top@100") == pytest.approx(0.626, abs=0.005)
    assert figures.mean("ndcg@10") == pytest.approx(0.446, abs=0.008)


def test_a_well_tuned_ials_reaches_the_known_figures_on_ml_100k(ml_100k):
    split = make_split(ml_100k, "random")
    settings = {"factors": 32, "regularization": 30, "alpha": 5}
    model = Ials.fit(split.train, known=split.known, seed=42, **settings)
    figures = evaluate_ranking(model, known=split.known.matrix, test=split.test.matrix)
    assert figures.mean("top@100") == pytest.approx(0.637, abs=0.005)
    assert figures.mean("ndcg@10") == pytest.approx(0.444, abs=0.008)


# Ratings


def test_the_mean_rating_ignores_events_without_one():
    train = events_of([(0, 0, 2), (1, 1, 5), (1, 0, np.nan)], n_users=2, n_items=2)
    predicted = MeanRating.fit(train).predict(train.user, train.item)
    assert predicted.tolist() == [3.5, 3.5, 3.5]
    assert predicted.dtype == np.float32


def test_biases_are_the_minimum_of_the_penalised_squares():
    rng = np.random.default_rng(5)
    rows = [(int(u), int(i), float(r)) for u, i, r in rng.integers((0, 0, 1), (5, 6, 6), (40, 3))]
    train = events_of(rows, n_users=5, n_items=6)
    model = BiasRating.fit(train, known=train, l2=2.0)
    design = np.zeros((len(rows), 11))
    design[np.arange(len(rows)), train.user] = 1
    design[np.arange(len(rows)), 5 + train.item] = 1
    biases = np.linalg.solve(
        design.T @ design + 2.0 * np.eye(11), design.T @ (train.value - train.value.mean())
    )
    np.testing.assert_allclose(model.user_bias, biases[:5], atol=1e-4)
    np.testing.assert_allclose(model.item_bias, biases[5:], atol=1e-4)


def test_a_bias_is_shrunk_and_a_stranger_has_none():
    train = events_of([(0, 0, 5), (1, 0, 1)], n_users=4, n_items=2)
    known = train.concat(events_of([(2, 0, 5)], n_users=4, n_items=2))
    model = BiasRating.fit(train, known=known, l2=1.0)
    assert model.mean == 3
    # Each rating is 2 off the mean; shrunk by 1 / (1 + l2). User 2 is folded in, user 3 unknown.
    rating = model.predict(np.array([0, 1, 2, 3], np.int32), np.zeros(4, np.int32))
    np.testing.assert_allclose(rating, [4, 2, 4, 3], atol=1e-6)
    assert model.predict(np.array([3], np.int32), np.array([1], np.int32)).tolist() == [3]


def test_ratings_are_clipped_to_what_train_holds():
    rows = [(0, 0, 5), (0, 1, 5), (1, 0, 5), (1, 1, 1), (2, 1, 1)]
    train = events_of(rows, n_users=3, n_items=2)
    model = BiasRating.fit(train, known=train, l2=0.01)
    everyone, items = np.repeat(np.arange(3), 2), np.tile(np.arange(2), 3)
    predicted = model.predict(everyone.astype(np.int32), items.astype(np.int32))
    assert predicted.min() >= 1
    assert predicted.max() <= 5
    assert (model.mean + model.user_bias[0] + model.item_bias[0]) > 5


def test_events_without_ratings_are_refused():
    train = events_of([(0, 0, np.nan), (1, 1, np.nan)], n_users=2, n_items=2)
    with pytest.raises(DataError, match="none of 2 events carries a rating"):
        MeanRating.fit(train)
    with pytest.raises(ValueError, match="l2 > 0, not 0"):
        BiasRating.fit(train, known=train, l2=0)


def test_the_bias_model_reaches_the_known_figures_on_the_notebooks_split(ml_100k):
    split = make_split(ml_100k, "keras-notebook")
    fitted = fit_rating_baselines(split, seed=42)
    assert list(fitted) == ["mean-rating", "bias-rating"]
    error = fitted["bias-rating"][0].predict(split.test.user, split.test.item) - split.test.value
    # Biases alone were measured at .888 and .747 with one fixed l2.
    assert np.mean(error**2) == pytest.approx(0.881, abs=0.003)
    assert np.abs(error).mean() == pytest.approx(0.739, abs=0.003)
