"""Shapes, losses and storage of the classic models."""

from collections.abc import Callable
from math import log
from pathlib import Path

import keras
import numpy as np
import pytest

from candidfeed.reference.models import (
    TfrsRetrieval,
    in_batch_softmax,
    keras_deep,
    keras_dot,
    keras_hybrid,
    tfrs_ranking,
    tfrs_retrieval,
)
from candidfeed.reference.training import predict

# Keras' own variables answer NumPy 2 in the way of NumPy 1 when weights are read or saved.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)

Build = Callable[..., keras.Model]

USER_METADATA = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
ITEM_METADATA = np.eye(4, 3, dtype=np.float32)


def small_hybrid(n_users: int, n_items: int, *, seed: int) -> keras.Model:
    return keras_hybrid(USER_METADATA[:n_users], ITEM_METADATA[:n_items], seed=seed)


BUILDERS = [tfrs_retrieval, tfrs_ranking, keras_dot, keras_deep, small_hybrid]
every_model = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


def batch(users: list[int], items: list[int]) -> dict[str, np.ndarray]:
    return {"user": np.array(users, np.int32), "item": np.array(items, np.int32)}


@pytest.mark.parametrize(
    ("build", "n_parameters"),
    [
        # Embeddings have one row more than there are ids.
        (tfrs_retrieval, (4 + 5) * 32),
        (tfrs_ranking, (4 + 5) * 32 + (64 * 256 + 256) + (256 * 64 + 64) + (64 + 1)),
        (keras_dot, (4 + 5) * 64),
        (keras_deep, (4 + 5) * 64 + (128 * 64 + 64) + (64 + 1)),
        (
            small_hybrid,
            (4 + 5) * 64 + ((128 + 2 + 3) * 64 + 64) + (64 * 64 + 64) + (64 + 1) + (4 * 2 + 5 * 3),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_has_the_published_layers(build: Build, n_parameters: int) -> None:
    assert build(3, 4, seed=1).count_params() == n_parameters


def test_on_ml_100k_the_embeddings_are_as_large_as_the_notebooks() -> None:
    shapes = [weights.shape for weights in keras_dot(943, 1682, seed=1).get_weights()]
    assert shapes == [(944, 64), (1683, 64)]


def test_metadata_is_not_trained() -> None:
    model = small_hybrid(3, 4, seed=1)
    frozen = sum(int(np.prod(variable.shape)) for variable in model.non_trainable_variables)
    # Dropout's state of its random numbers stands among them as well.
    assert [v.shape for v in model.non_trainable_variables if len(v.shape) == 2] == [(4, 2), (5, 3)]
    assert frozen >= 4 * 2 + 5 * 3
    np.testing.assert_array_equal(
        model.get_layer("item_metadata").get_weights()[0], np.vstack([ITEM_METADATA, np.zeros(3)])
    )


def test_a_hybrid_model_without_any_metadata_has_none() -> None:
    model = keras_hybrid(np.zeros((3, 0), np.float32), np.zeros((4, 0), np.float32), seed=1)
    expected = (4 + 5) * 64 + (128 * 64 + 64) + (64 * 64 + 64) + (64 + 1)
    assert model.count_params() == expected


@every_model
def test_a_saved_model_predicts_the_same_when_loaded(build: Build, tmp_path: Path) -> None:
    model = build(3, 4, seed=1)
    users, items = [0, 1, 2, 2, -1], [3, 2, 1, 0, -1]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded, users, items), predict(model, users, items))


@every_model
def test_one_seed_gives_one_model_and_another_seed_another(build: Build) -> None:
    first, same, other = (build(3, 4, seed=seed).get_weights() for seed in (1, 1, 2))
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


@every_model
def test_embeddings_start_uniform_within_a_twentieth(build: Build) -> None:
    model = build(3, 4, seed=1)
    weights = [layer.get_weights()[0] for layer in model.layers if "_embedding" in layer.name]
    assert len(weights) == 2
    for table in weights:
        assert 0.04 < np.abs(table).max() <= 0.05
    assert (weights[0][:4] != weights[1][:4]).all()


@pytest.mark.parametrize("build", [keras_dot, keras_deep, tfrs_retrieval])
def test_an_unknown_id_reads_the_last_row(build: Build) -> None:
    model = build(3, 4, seed=1)
    np.testing.assert_array_equal(predict(model, [-1], [-1]), predict(model, [3], [4]))


@pytest.mark.parametrize(("build", "learning_rate"), [(tfrs_retrieval, 0.5), (tfrs_ranking, 0.1)])
def test_adagrad_starts_as_in_keras_2(build: Build, learning_rate: float) -> None:
    settings = build(3, 4, seed=1).optimizer.get_config()
    assert settings["learning_rate"] == pytest.approx(learning_rate)
    assert (settings["initial_accumulator_value"], settings["epsilon"]) == (0.1, 1e-7)


def test_in_batch_softmax_is_the_hand_worked_cross_entropy() -> None:
    # Scores of a and b: ln 2 and 0 for the first and third row, 0 and ln 3 for the second.
    user = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    item = np.array([[log(2), 0], [0, log(3)]], np.float32)
    loss = in_batch_softmax(user, item, np.array([2, 1]), np.array([log(2), log(3), log(2)]))
    expected = [log((2 + 1 + 2) / 2), log((1 + 3 + 1) / 3), log((2 + 1 + 2) / 2)]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_retrieval_loss_is_summed_over_the_batch() -> None:
    model = TfrsRetrieval(2, 2, dim=2, seed=1)
    model.build({"user": (None,), "item": (None,)})
    model.compile()
    model.set_weights(
        [
            np.array([[1, 0], [0, 1], [9, 9]], np.float32),
            np.array([[log(2), 0], [0, log(3)], [9, 9]], np.float32),
        ]
    )
    loss = model.evaluate(batch([0, 1, 0], [0, 1, 0]), batch_size=3, verbose="0")
    assert loss == pytest.approx(2 * log(5 / 2) + log(5 / 3), rel=1e-6)


@pytest.mark.parametrize(("n_rows", "n_items"), [(1, 3), (2, 500), (300, 4), (64, 64)])
def test_the_retrieval_loss_is_the_softmax_over_all_rows_of_the_batch(
    n_rows: int, n_items: int
) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 5, n_rows), rng.integers(-1, n_items, n_rows)
    model = tfrs_retrieval(5, n_items, seed=1)
    model.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    loss = model.evaluate(batch(users.tolist(), items.tolist()), batch_size=n_rows, verbose="0")
    user_table, item_table = (w.astype(np.float64) for w in model.get_weights())
    scores = user_table[users] @ item_table[items].T
    plain = np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)
    assert loss == pytest.approx(plain.sum(), rel=1e-4, abs=1e-4)
