"""Sparse tables learn as dense ones do, row for row."""

from typing import Any

import numpy as np
import pytest

from candidfeed.data import memory
from candidfeed.errors import DataError, TrainingError
from candidfeed.retrieval.sparse.model import SparseModel
from candidfeed.retrieval.sparse.tables import SparseEmbedding, sum_repeated

# After candidfeed, which chooses the backend.
import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
import keras  # isort: skip

N_ROWS, DIM, BATCH, STEPS = 11, 4, 6, 5
# The table is read thrice a step: by two inputs, one of which holds several ids, -1 is padding.
RNG = np.random.default_rng(0)
BAGS = RNG.integers(-1, N_ROWS, size=(STEPS * BATCH, 3)).astype(np.int32)
ONES = RNG.integers(N_ROWS, size=STEPS * BATCH).astype(np.int32)
TARGETS = RNG.normal(size=(STEPS * BATCH, 2)).astype(np.float32)
INPUTS = {"bag": BAGS, "one": ONES}


class Small(SparseModel):
    """A dense layer over what is read of one sparse table at two places."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.rows = SparseEmbedding(N_ROWS, DIM, seed=3, **options)
        normal = keras.initializers.RandomNormal(stddev=0.5, seed=1)
        self.dense = keras.layers.Dense(2, kernel_initializer=normal)

    def call(self, inputs):
        bag = keras.ops.sum(self.rows(inputs["bag"]), axis=1)
        return self.dense(keras.ops.tanh(bag * self.rows(inputs["one"])))


def trained(model: Small, *, steps_per_execution: int = 4, epochs: int = 2) -> Small:
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse",
                  steps_per_execution=steps_per_execution)  # fmt: skip
    model.fit(INPUTS, TARGETS, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    return model


def dense_twin(rule: str, learning_rate: float, epochs: int = 2) -> dict[str, np.ndarray]:
    """The same training with the whole table as a variable, differentiated by JAX."""
    model = Small(rule=rule)
    model(jax.tree.map(lambda one: one[:BATCH], INPUTS))
    # A copy: fitting other models must not change it.
    weights = {
        "table": jnp.array(model.rows.table.value),
        "kernel": jnp.array(model.dense.kernel.value),
        "bias": jnp.array(model.dense.bias.value),
    }
    adam = keras.optimizers.Adam(0.01)
    variables = [model.dense.kernel, model.dense.bias]
    adam.build(variables)
    state, seen = [jnp.array(one.value) for one in adam.variables], jnp.zeros(N_ROWS)

    def loss(weights, bag, one, target):
        padded = jnp.vstack([weights["table"], jnp.zeros((1, DIM))])
        hidden = jnp.tanh(padded[bag].sum(axis=1) * padded[one])
        return jnp.mean((hidden @ weights["kernel"] + weights["bias"] - target) ** 2)

    for _ in range(epochs):
        for start in range(0, len(ONES), BATCH):
            part = slice(start, start + BATCH)
            gradient = jax.grad(loss)(weights, BAGS[part], ONES[part], TARGETS[part])
            step = learning_rate * gradient["table"]
            if rule == "adagrad":
                seen = seen + jnp.mean(gradient["table"] ** 2, axis=1)
                step = step / (jnp.sqrt(seen) + 1e-8)[:, None]
            weights["table"] = weights["table"] - step
            both = [gradient["kernel"], gradient["bias"]]
            new, state = adam.stateless_apply(state, both, [weights["kernel"], weights["bias"]])
            weights["kernel"], weights["bias"] = new
    return {name: np.asarray(one) for name, one in weights.items()}


@pytest.mark.parametrize("rule", ["adagrad", "sgd"])
def test_a_sparse_table_learns_what_a_dense_one_does(rule: str) -> None:
    expected = dense_twin(rule, 0.1)
    model = trained(Small(rule=rule, learning_rate=0.1))
    np.testing.assert_allclose(model.rows.table, expected["table"], atol=1e-6)
    np.testing.assert_allclose(model.dense.kernel, expected["kernel"], atol=1e-6)
    np.testing.assert_allclose(model.dense.bias, expected["bias"], atol=1e-6)


def test_two_runs_are_bit_equal_and_steps_at_once_change_nothing() -> None:
    first, again = trained(Small()), trained(Small())
    by_one = trained(Small(), steps_per_execution=1)
    for one, same, single in zip(
        first.get_weights(), again.get_weights(), by_one.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, same)
        np.testing.assert_allclose(one, single, atol=1e-7)


def test_rows_that_no_batch_names_stay_as_they_were() -> None:
    model = Small()
    before = np.array(model.rows.table)
    model.compile(optimizer="adam", loss="mse")
    inputs = {"bag": np.full((3, 2), 1, np.int32), "one": np.full(3, 7, np.int32)}
    model.fit(inputs, np.ones((3, 2), np.float32), verbose=0)
    changed = np.flatnonzero((np.asarray(model.rows.table) != before).any(axis=1))
    assert changed.tolist() == [1, 7]
    assert np.flatnonzero(model.rows.accumulator).tolist() == [1, 7]


def test_padding_gives_zeros_and_learns_nothing() -> None:
    layer = SparseEmbedding(3, 2)
    rows = np.asarray(layer(np.array([[-1, 3], [99, 1]], np.int32)))
    assert not rows[[0, 0, 1], [0, 1, 0]].any()
    np.testing.assert_array_equal(rows[1, 1], np.asarray(layer.table)[1])
    state = [one.value for one in layer.state]
    table, _ = layer.updated(state, jnp.float32(1), np.array([-1, 3]), np.ones((2, 2)), True)
    np.testing.assert_array_equal(table, layer.table)


def test_the_sum_of_an_id_stands_at_its_first_place_in_ascending_order() -> None:
    ids = np.array([5, 0, 5, 2, 0, 5], np.int32)
    values = np.array([[1], [2], [4], [8], [16], [32]], np.float32)
    rows, sums = sum_repeated(jnp.asarray(ids), jnp.asarray(values))
    assert np.asarray(rows).tolist() == [0, 0, 2, 5, 5, 5]
    assert np.asarray(sums).ravel().tolist() == [18, 0, 8, 37, 0, 0]


@pytest.mark.parametrize("n", [1, 100, 3000])
def test_sums_of_repeated_ids_are_those_of_a_dense_sum(n: int) -> None:
    rng = np.random.default_rng(n)
    ids = rng.integers(50, size=n).astype(np.int32)
    values = rng.normal(size=(n, 3)).astype(np.float32)
    expected = np.zeros((50, 3))
    np.add.at(expected, ids, values)
    rows, sums = (np.asarray(one) for one in sum_repeated(jnp.asarray(ids), jnp.asarray(values)))
    found = np.zeros((50, 3))
    np.add.at(found, rows, sums)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_start_is_normal_and_the_same_for_one_seed() -> None:
    big = SparseEmbedding(70_001, 3, stddev=0.5, seed=4)
    table = np.asarray(big.table)
    assert table.mean() == pytest.approx(0.0, abs=0.005)
    assert table.std() == pytest.approx(0.5, abs=0.005)
    # The last part of the table begins anew: no part repeats another.
    assert len(np.unique(table[:, 0])) > 69_000
    np.testing.assert_array_equal(SparseEmbedding(70_001, 3, stddev=0.5, seed=4).table, table)
    assert (np.asarray(SparseEmbedding(70_001, 3, stddev=0.5, seed=5).table) != table).any()


def test_another_learning_rate_can_be_assigned_in_training() -> None:
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs=None) -> None:
            if epoch == 1:
                self.model.rows.learning_rate.assign(0.0)

    once, stopped = trained(Small(), epochs=1), Small()
    stopped.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    stopped.fit(
        INPUTS, TARGETS, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[Stop()]
    )
    np.testing.assert_allclose(stopped.rows.table, once.rows.table, atol=1e-7)


def test_a_layer_comes_back_from_its_configuration_and_a_model_from_its_weights(tmp_path) -> None:
    layer = SparseEmbedding(4, 2, rule="sgd", learning_rate=0.5, stddev=0.2, seed=9)
    again = SparseEmbedding.from_config(layer.get_config())
    np.testing.assert_array_equal(again.table, layer.table)
    assert again.get_config() == layer.get_config()
    model, other = trained(Small()), Small()
    model.save_weights(tmp_path / "small.weights.h5")
    other(jax.tree.map(lambda one: one[:BATCH], INPUTS))
    other.load_weights(tmp_path / "small.weights.h5")
    np.testing.assert_array_equal(
        other.predict(INPUTS, verbose=0), model.predict(INPUTS, verbose=0)
    )


def test_evaluate_predict_and_history_work_as_in_any_model() -> None:
    model = trained(Small())
    assert model.history.epoch == [0, 1]
    assert model.history.history["loss"][1] < model.history.history["loss"][0]
    predicted = model.predict(INPUTS, batch_size=BATCH, verbose=0)
    loss = model.evaluate(INPUTS, TARGETS, batch_size=BATCH, verbose=0)
    assert loss == pytest.approx(np.mean((predicted - TARGETS) ** 2), rel=1e-5)


# What goes wrong


def test_a_loss_that_is_not_a_number_stops_training_and_names_the_step() -> None:
    bad = TARGETS.copy()
    bad[3 * BATCH + 1] = np.nan
    good = trained(Small(), epochs=1)
    model = Small()
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", steps_per_execution=4)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 3 .*before that step"):
        model.fit(INPUTS, bad, batch_size=BATCH, epochs=4, shuffle=False, verbose=0)
    assert model.steps_done == 3
    until = Small()
    until.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", steps_per_execution=4)
    first = slice(3 * BATCH)
    inputs = jax.tree.map(lambda one: one[first], INPUTS)
    until.fit(inputs, TARGETS[first], batch_size=BATCH, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), until.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (np.asarray(good.rows.table) != np.asarray(model.rows.table)).any()


@pytest.mark.parametrize("steps_per_execution", [1, 2, 8])
def test_a_bad_last_step_is_told_too(steps_per_execution: int) -> None:
    bad = TARGETS.copy()
    bad[-1] = np.inf
    model = Small()
    model.compile(optimizer="adam", loss="mse", steps_per_execution=steps_per_execution)
    with pytest.raises(TrainingError, match="at step 4 "):
        model.fit(INPUTS, bad, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    assert all(np.isfinite(one).all() for one in model.get_weights())
    # Steps go on counting where training goes on.
    with pytest.raises(TrainingError, match="the loss is inf at step 4 "):
        model.train_on_batch(jax.tree.map(lambda one: one[-BATCH:], INPUTS), bad[-BATCH:])


def test_a_table_too_large_for_memory_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match=r"of 1,000,000,000,000 x 64 .*GiB.* is available; use"):
        SparseEmbedding(10**12, 64)
    monkeypatch.setattr(memory, "available_bytes", lambda: 300 * 2**20)
    SparseEmbedding(1000, 2)
    with pytest.raises(DataError, match=r"needs 0\.1 GiB of memory and 0\.3 GiB is available"):
        SparseEmbedding(500_000, 32)


def test_what_can_not_be_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0 x 2"):
        SparseEmbedding(0, 2)
    unknown: dict[str, Any] = {"rule": "adam"}
    with pytest.raises(ValueError, match="'adam'"):
        SparseEmbedding(2, 2, **unknown)
