"""The ranker: an ordinary Keras model whose candidates do not depend on each other."""

from pathlib import Path

import keras
import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.ranking import taste
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.ranking.ranker import EngagedLoss, Ranker
from candidfeed.ranking.taste import RatingLoss

N_USERS, N_ITEMS, B, C, H = 4, 6, 3, 5, 4
PAD = N_ITEMS
SHARES = [0.1, 0.3, 0.4, 0.2]
SIZES = {"n_users": N_USERS, "n_items": N_ITEMS, "n_user_ids": 3, "n_item_ids": 4, "n_times": 2}
ITEM_BAG = Bag(
    np.array([[1, 2], [3, 0], [0, 0], [2, 3], [1, 0], [3, 1]], np.int32),
    np.array([[0.6, 0.8], [1, 0], [0, 0], [0.5, 0.5], [1, 0], [0.8, 0.6]], np.float32),
)
Inputs = dict[str, np.ndarray]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs() -> Inputs:
    """Candidates 0 and 3 of user 0 stand in their history; the last of each list is padding."""
    history = np.array([[0, 3, 5, PAD], [1, PAD, PAD, PAD], [PAD] * 4], np.int32)
    tone = np.where(history < PAD, floats(B, H), 0).astype(np.float32)
    item = np.array([[0, 1, 2, 3, PAD], [4, 1, 0, 5, PAD], [5, 4, 3, 2, PAD]], np.int32)
    inside, own_tone = np.zeros((B, C), np.float32), np.zeros((B, C), np.float32)
    for row in range(B):
        for place, candidate in enumerate(item[row]):
            found = np.flatnonzero((history[row] == candidate) & (candidate < PAD))
            if len(found):
                inside[row, place], own_tone[row, place] = 1, tone[row, found[0]]
    real = item < PAD
    held = np.where(real, item, 0)
    return {
        "user": np.array([0, 2, N_USERS], np.int32),
        "user_feature_ids": np.array([[1], [2], [0]], np.int32),
        "user_feature_weights": np.array([[1], [1], [0]], np.float32),
        "history": history,
        "history_tone": tone,
        "user_tone": np.array([0.3, -0.2, 0], np.float32),
        "item": item,
        "item_feature_ids": ITEM_BAG.ids[held],
        "item_feature_weights": ITEM_BAG.weights[held] * real[..., None],
        "time_bin": np.array([[0], [1], [2]], np.int32) * np.ones((1, C), np.int32),
        "in_history": inside,
        "own_tone": own_tone,
        "weight": real.astype(np.float32),
        "dense": np.where(real[..., None], floats(B, C, len(DENSE_FEATURES)), 0),
    }


def labels() -> dict[str, np.ndarray]:
    return {
        "engaged": np.array([[1, 0, 0, 0, -1], [0, 1, 0, 1, -1], [-1] * 5], np.float32),
        "rating": np.array([[3, -1, 0, 2, -1], [-1] * 5, [1, 1, 2, -1, -1]], np.int32),
    }


def small_ranker(*, seed: int = 0, is_random: bool = True) -> Ranker:
    """With `is_random`, every learned weight is drawn, so that no part is silent."""
    keras.utils.set_random_seed(seed)
    model = Ranker(sizes=SIZES, level_shares=SHARES, dim=3, members=2, l2=0.01, width=8)
    model.build({name: each.shape for name, each in inputs().items()})
    model.trunk.set_items(ITEM_BAG)
    if is_random:
        rng = np.random.default_rng(seed)
        for weight in [*model.trunk.trainable_weights, *model.engaged.trainable_weights]:
            weight.assign(rng.standard_normal(weight.shape) * 0.3)
    return model


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return small_ranker()


@pytest.fixture(scope="module")
def predicted(ranker: Ranker) -> dict[str, np.ndarray]:
    return ranker.predict_on_batch(inputs())


def compiled(model: Ranker) -> Ranker:
    losses = {"engaged": EngagedLoss(), "rating": RatingLoss()}
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=losses)
    return model


# An ordinary Keras model


def test_it_fits_evaluates_and_is_saved_as_keras_models_are(tmp_path: Path) -> None:
    model = compiled(small_ranker())
    curves = model.fit(inputs(), labels(), batch_size=B, epochs=8, verbose=0).history
    assert len(curves["loss"]) == 8
    assert curves["loss"][-1] < curves["loss"][0]
    found = model.evaluate(inputs(), labels(), batch_size=B, verbose=0, return_dict=True)
    # Outside of training there is no regularisation: the sum of both heads.
    heads = model.predict_on_batch(inputs())
    expected = EngagedLoss()(labels()["engaged"], heads["engaged"])
    expected += RatingLoss()(labels()["rating"], heads["rating"])
    assert found["loss"] == pytest.approx(float(expected), abs=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    again = loaded.predict_on_batch(inputs())
    for name in ("engaged", "rating"):
        np.testing.assert_array_equal(again[name], heads[name])


def test_it_gives_a_logit_and_a_distribution_for_each_candidate(
    predicted: dict[str, np.ndarray],
) -> None:
    assert predicted["engaged"].shape == (B, C)
    assert predicted["rating"].shape == (B, C, len(SHARES))
    np.testing.assert_allclose(predicted["rating"].sum(axis=-1), 1.0, atol=1e-5)


def test_a_fresh_ranker_knows_no_more_than_the_shares_of_the_levels() -> None:
    model = small_ranker(is_random=False)
    for weight in model.trunk.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    heads = model.predict_on_batch(inputs())
    np.testing.assert_allclose(heads["rating"], np.broadcast_to(SHARES, (B, C, 4)), atol=1e-5)
    np.testing.assert_allclose(heads["engaged"], -3.0, atol=1e-6)


# The candidate's own event


def test_the_candidates_own_event_is_left_out_of_its_history(
    ranker: Ranker, predicted: dict[str, np.ndarray]
) -> None:
    asked = inputs()
    for row, place in ((0, 0), (0, 3), (1, 1)):
        without = {name: each.copy() for name, each in asked.items()}
        own = without["history"][row] == without["item"][row, place]
        without["history"][row, own], without["history_tone"][row, own] = PAD, 0
        without["in_history"][row, place] = without["own_tone"][row, place] = 0
        heads = ranker.predict_on_batch(without)
        np.testing.assert_allclose(
            heads["rating"][row, place], predicted["rating"][row, place], atol=1e-5
        )
    # It matters: kept in, the outputs are others.
    kept = {**asked, "in_history": np.zeros((B, C), np.float32)}
    kept["own_tone"] = np.zeros((B, C), np.float32)
    difference = np.abs(ranker.predict_on_batch(kept)["rating"] - predicted["rating"]).max(axis=-1)
    assert (difference > 1e-3).tolist() == (asked["in_history"] > 0).tolist()


# Independence


def test_a_candidate_does_not_depend_on_the_others_nor_on_their_order(
    ranker: Ranker, predicted: dict[str, np.ndarray]
) -> None:
    per_candidate = ("item", "item_feature_ids", "item_feature_weights", "time_bin", "in_history",
                     "own_tone", "weight", "dense")  # fmt: skip
    for places in ([4, 2, 0, 1, 3], [0, 0, 0, 0, 0]):
        moved = {n: x[:, places] if n in per_candidate else x for n, x in inputs().items()}
        heads = ranker.predict_on_batch(moved)
        for name in ("engaged", "rating"):
            np.testing.assert_allclose(heads[name], predicted[name][:, places], atol=1e-6)


def test_a_user_does_not_depend_on_the_others_of_the_batch(
    ranker: Ranker, predicted: dict[str, np.ndarray]
) -> None:
    rows = [2, 0, 0]
    heads = ranker.predict_on_batch({name: each[rows] for name, each in inputs().items()})
    for name in ("engaged", "rating"):
        np.testing.assert_allclose(heads[name], predicted[name][rows], atol=1e-6)


def test_a_large_catalogue_gathers_to_the_same_outputs(
    predicted: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taste, "SMALL_CATALOGUE", N_ITEMS - 1)
    large = small_ranker()
    assert not large.trunk.is_small
    heads = large.predict_on_batch(inputs())
    real = inputs()["item"] < PAD
    for name in ("engaged", "rating"):
        np.testing.assert_allclose(heads[name][real], predicted[name][real], atol=1e-5)


# The losses, by hand


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_the_engaged_loss_is_cross_entropy_and_a_quarter_of_the_lists_softmax() -> None:
    y_true = np.array([[1, 0, 1, -1], [-1, -1, -1, -1], [0, 0, -1, -1]], np.float32)
    logit = np.array([[2, -1, 0, 99], [5, 5, 5, 5], [1, -2, 7, 7]], np.float32)
    bce = -(np.log(sigmoid(2)) + np.log(1 - sigmoid(-1)) + np.log(sigmoid(0))) / 3
    total = np.exp(2) + np.exp(-1) + np.exp(0)
    ordered = -(np.log(np.exp(2) / total) + np.log(np.exp(0) / total)) / 2
    negatives = -(np.log(1 - sigmoid(1)) + np.log(1 - sigmoid(-2))) / 2
    found = np.asarray(EngagedLoss(list_weight=0.25).call(y_true, logit))
    np.testing.assert_allclose(found, [bce + ordered / 4, 0, negatives], rtol=1e-5)
