"""The two-tower model: an ordinary Keras model whose scores are one dot product."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse as sp

from candidfeed.data.features import Bag
from candidfeed.retrieval import two_tower
from candidfeed.retrieval.closed_forms import ClosedForms
from candidfeed.retrieval.factorise import FactorSettings, fold_in
from candidfeed.retrieval.two_tower import (
    OUT_OF_SOFTMAX,
    BagEmbedding,
    FoldIn,
    HiddenItemsSoftmax,
    HiddenNdcg,
    TwoTower,
)

N_ITEMS, LENGTH, BATCH = 7, 6, 4
PAD = N_ITEMS
FACTORS = FactorSettings(dim=3, unseen_weight=0.2, reg=0.05)
Inputs = dict[str, np.ndarray]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


N_MEMBERS = 2
FOLD_IN = {"dim": 3, "n_members": N_MEMBERS, "unseen_weight": 0.2, "reg": 0.05}
ITEM_VECTORS = random(N_MEMBERS, N_ITEMS, 3)
ITEM_BAG = Bag(np.array([[1, 2], [3, 0]] * 3 + [[0, 0]], np.int32), np.abs(random(N_ITEMS, 2)))
HISTORY = np.array(
    [[0, 3, 5, PAD, PAD, PAD], [6, 1, 2, 3, 4, 5], [PAD] * 6, [4] + [PAD] * 5], np.int32
)


def inputs(history: np.ndarray = HISTORY) -> Inputs:
    n = len(history)
    return {
        "history": history,
        "feature_ids": np.array([[1, 0], [2, 1], [0, 0], [1, 2]], np.int32)[:n],
        "feature_weights": np.array([[1, 0], [0.6, 0.8], [0, 0], [0.5, 0.5]], np.float32)[:n],
    }


def small_model(*, seed: int = 0, n_neighbour_dims: int = 2) -> TwoTower:
    keras.utils.set_random_seed(seed)
    model = TwoTower(
        n_items=N_ITEMS, n_user_ids=3, n_item_ids=4, item_bag_width=2, fold_in=FOLD_IN,
        n_neighbour_dims=n_neighbour_dims, dim=4,
    )  # fmt: skip
    model.build()
    neighbours = random(2, N_ITEMS, n_neighbour_dims, seed=1)
    model.set_items(ClosedForms(ITEM_VECTORS, neighbours[0], neighbours[1]), ITEM_BAG)
    return model


def touched_items() -> np.ndarray:
    touched = np.zeros((BATCH, N_ITEMS), np.float32)
    for row, items in enumerate(HISTORY):
        touched[row, items[items < PAD]] = 1
    return touched


def mean_over_members(touched: np.ndarray) -> np.ndarray:
    seen = sp.csr_matrix(touched)
    return np.mean([fold_in(seen, one, FACTORS) @ one.T for one in ITEM_VECTORS], axis=0)


def compiled(model: TwoTower) -> TwoTower:
    model.compile(
        optimizer=keras.optimizers.Adam(0.05), loss=HiddenItemsSoftmax(), metrics=[HiddenNdcg(3)]
    )
    return model


def labels() -> np.ndarray:
    targets = np.zeros((BATCH, N_ITEMS), np.float32)
    for row, items in enumerate(HISTORY):
        targets[row, items[items < PAD]] = OUT_OF_SOFTMAX
    targets[0, 1] = targets[0, 2] = targets[1, 0] = targets[3, 5] = 1.0
    return targets


@pytest.fixture(scope="module")
def trained() -> tuple[TwoTower, keras.callbacks.History]:
    model = compiled(small_model())
    history = model.fit(
        inputs(), labels(), batch_size=BATCH, epochs=5, verbose=0,
        validation_data=(inputs(), labels()), callbacks=[keras.callbacks.TerminateOnNaN()],
    )  # fmt: skip
    return model, history


# An ordinary Keras model


def test_it_fits_with_callbacks_and_a_history_and_evaluates_to_its_last_figures(
    trained: tuple[TwoTower, keras.callbacks.History],
) -> None:
    model, history = trained
    curves = history.history
    assert curves.keys() == {"loss", "ndcg", "val_loss", "val_ndcg"}
    assert len(curves["loss"]) == 5
    assert curves["loss"][-1] < curves["loss"][0]
    found = model.evaluate(inputs(), labels(), batch_size=BATCH, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(curves["val_loss"][-1], abs=1e-5)
    assert found["ndcg"] == pytest.approx(curves["val_ndcg"][-1], abs=1e-5)


def test_its_summary_counts_learned_and_fixed_weights() -> None:
    lines: list[str] = []
    model = small_model()
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    # Two item tables, three bags of 3, 4 and 4 ids, a bias an item, and the scale.
    n_learned = 2 * 7 * 4 + (3 + 4 + 4) * 4 + 7 + 1
    # Fold-in vectors and their Gram spectrum, two neighbour tables, bag ids and weights.
    n_fixed = N_MEMBERS * (8 * 3 + 3) + 2 * 7 * 2 + 2 * 7 * 2
    assert f"Trainable params: {n_learned} " in text
    assert f"Non-trainable params: {n_fixed} " in text
    for layer in ("fold_in", "user_features", "history_features", "item_features"):
        assert layer in text


def test_a_saved_model_predicts_the_same(
    tmp_path: Path, trained: tuple[TwoTower, keras.callbacks.History]
) -> None:
    model = trained[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    predicted = model.predict_on_batch(inputs())
    np.testing.assert_array_equal(loaded.predict_on_batch(inputs()), predicted)


def test_one_seed_gives_one_set_of_weights_and_another_seed_another(
    trained: tuple[TwoTower, keras.callbacks.History],
) -> None:
    again = compiled(small_model())
    again.fit(inputs(), labels(), batch_size=BATCH, epochs=5, verbose=0)
    for first, same in zip(trained[0].get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, same)
    tables = (np.asarray(small_model(seed=seed).item_table) for seed in (0, 1))
    assert (next(tables) != next(tables)).any()


def test_fixed_parts_stay_as_they_are_in_training(
    trained: tuple[TwoTower, keras.callbacks.History],
) -> None:
    before, after = small_model(), trained[0]
    np.testing.assert_array_equal(after.fold_in.items, before.fold_in.items)
    np.testing.assert_array_equal(after.neighbour_in, before.neighbour_in)
    assert (np.asarray(after.item_table) != np.asarray(before.item_table)).any()


# Its scores


def test_scores_are_one_dot_product_of_user_and_item_vectors(
    trained: tuple[TwoTower, keras.callbacks.History],
) -> None:
    model = trained[0]
    users, items = np.asarray(model.user_vectors(inputs())), np.asarray(model.item_vectors())
    assert users.shape == (BATCH, N_MEMBERS * 3 + 2 + 4 + 1)
    assert items.shape == (N_ITEMS, N_MEMBERS * 3 + 2 + 4 + 1)
    np.testing.assert_allclose(model.predict_on_batch(inputs()), users @ items.T, atol=1e-5)


def test_before_training_the_model_is_the_closed_form() -> None:
    model = small_model()
    touched = touched_items()
    folded = mean_over_members(touched)
    neighbours = random(2, N_ITEMS, 2, seed=1)
    closed = folded + touched @ neighbours[0] @ neighbours[1].T
    scale = float(np.exp(np.log(8.0)))
    np.testing.assert_allclose(model.predict_on_batch(inputs()), scale * closed, atol=1e-3)


def test_padding_and_the_order_of_the_history_do_not_change_a_user_vector(
    trained: tuple[TwoTower, keras.callbacks.History],
) -> None:
    model = trained[0]
    vectors = np.asarray(model.user_vectors(inputs()))
    longer = np.pad(HISTORY, ((0, 0), (2, 3)), constant_values=PAD)
    np.testing.assert_allclose(model.user_vectors(inputs(longer)), vectors, atol=1e-5)
    backwards = HISTORY[:, ::-1].copy()
    np.testing.assert_allclose(model.user_vectors(inputs(backwards)), vectors, atol=1e-5)


def test_a_user_with_features_and_no_history_is_told_from_one_without_either(
    trained: tuple[TwoTower, keras.callbacks.History],
) -> None:
    model = trained[0]
    empty = np.full((BATCH, LENGTH), PAD, np.int32)
    scores = model.predict_on_batch(inputs(empty))
    assert np.isfinite(scores).all()
    # Of nobody anything is known but the features: the third has none, and gets the items' biases.
    bias = np.asarray(model.item_bias)
    np.testing.assert_allclose(scores[2], bias, atol=1e-6)
    assert (np.abs(scores[[0, 1, 3]] - bias).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("n_items", [2, 3, 5])
def test_a_model_of_a_tiny_catalogue_can_be_asked(n_items: int) -> None:
    fold_in = {"dim": 1, "n_members": 1, "unseen_weight": 0.2, "reg": 0.05}
    model = TwoTower(
        n_items=n_items, n_user_ids=1, n_item_ids=1, item_bag_width=1, fold_in=fold_in,
        n_neighbour_dims=0, dim=2,
    )  # fmt: skip
    model.build()
    nothing = np.zeros((n_items, 0), np.float32)
    bag = Bag(np.zeros((n_items, 1), np.int32), np.zeros((n_items, 1), np.float32))
    model.set_items(ClosedForms(np.ones((1, n_items, 1), np.float32), nothing, nothing), bag)
    asked = {
        "history": np.array([[0, 1]], np.int32),
        "feature_ids": np.zeros((1, 1), np.int32),
        "feature_weights": np.zeros((1, 1), np.float32),
    }
    scores = model.predict_on_batch(asked)
    assert scores.shape == (1, n_items)
    metric = HiddenNdcg(10)
    metric.update_state(np.eye(1, n_items, dtype=np.float32), scores)
    assert np.isfinite(float(metric.result()))


# Its layers


@pytest.mark.parametrize("dim", [3, 9])
def test_the_layer_scores_as_the_mean_over_the_members_of_the_factorisation(dim: int) -> None:
    vectors = random(N_MEMBERS, N_ITEMS, dim)
    layer = FoldIn(N_ITEMS, **{**FOLD_IN, "dim": dim})
    layer.build()
    layer.assign(vectors)
    seen, factors = sp.csr_matrix(touched_items()), replace(FACTORS, dim=dim)
    expected = np.mean([fold_in(seen, one, factors) @ one.T for one in vectors], axis=0)
    found = np.asarray(layer(HISTORY))
    assert found.shape == (BATCH, N_MEMBERS * dim)
    np.testing.assert_allclose(found @ np.asarray(layer.item_vectors()).T, expected, atol=1e-4)
    assert not found[2].any()


def test_a_bag_is_the_weighted_sum_of_its_rows_and_padding_weighs_nothing() -> None:
    layer = BagEmbedding(3, 2)
    layer.build()
    layer.table.assign(np.array([[9, 9], [1, 2], [10, 20]], np.float32))
    ids, weights = np.array([[1, 2], [2, 0]]), np.array([[1, 0.5], [2, 0]], np.float32)
    assert np.asarray(layer(ids, weights)).tolist() == [[6, 12], [20, 40]]


# The loss and the metric, by hand


def test_the_loss_is_the_softmax_of_the_hidden_items_among_those_not_shown() -> None:
    y_true = np.array([[1, 0, OUT_OF_SOFTMAX, 0], [1, 1, 0, 1]], np.float32)
    scores = np.log(np.array([[2, 1, 50, 1], [1, 2, 4, 1]], np.float32))
    # User 0: item 0 of 2 + 1 + 1. User 1: 1, 2 and 1 of 8. Four hidden items, two users: 2 a user.
    expected = [-np.log(2 / 4) / 2, -(np.log(1 / 8) + np.log(2 / 8) + np.log(1 / 8)) / 2]
    found = np.asarray(HiddenItemsSoftmax().call(y_true, scores))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Together: the mean over the four items.
    total = float(HiddenItemsSoftmax()(y_true, scores))
    assert total == pytest.approx(-np.log([1 / 2, 1 / 8, 2 / 8, 1 / 8]).mean(), rel=1e-5)


def test_the_loss_is_zero_where_nothing_is_hidden() -> None:
    y_true = np.array([[0, OUT_OF_SOFTMAX], [0, 0]], np.float32)
    assert float(HiddenItemsSoftmax()(y_true, random(2, 2))) == 0.0


def test_the_metric_is_ndcg_without_shown_items_and_without_users_who_hide_nothing() -> None:
    y_true = np.array([[1, 0, OUT_OF_SOFTMAX, 1], [0, 0, 0, OUT_OF_SOFTMAX]], np.float32)
    scores = np.array([[1, 2, 9, 3], [4, 3, 2, 1]], np.float32)
    metric = HiddenNdcg(2)
    metric.update_state(y_true, scores)
    # The order is 3, 1, 0 (2 was shown): a hit at place 1, none at 2; both places are the ideal.
    first = 1.0 / (1.0 + 1.0 / np.log2(3))
    assert float(metric.result()) == pytest.approx(first)
    metric.update_state(np.array([[0, 1, 0, 0]], np.float32), scores[1:])
    assert float(metric.result()) == pytest.approx((first + 1 / np.log2(3)) / 2)


def test_of_a_large_catalogue_only_rows_of_the_history_are_read_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model()
    model.history_table.assign(random(N_ITEMS, 4, seed=2))
    model.history_features.table.assign(random(4, 4, seed=3))
    by_table = np.asarray(model(inputs()))
    monkeypatch.setattr(two_tower, "_MAX_TABLE_ITEMS", 0)
    np.testing.assert_allclose(np.asarray(model(inputs())), by_table, rtol=1e-5, atol=1e-5)
