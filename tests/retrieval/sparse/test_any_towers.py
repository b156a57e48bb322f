"""Towers that are not ours train for one dot product, and give their vectors."""

from pathlib import Path

import numpy as np
import pytest

from candidfeed.retrieval.sparse.any_towers import Retrieval, tower_vectors
from candidfeed.retrieval.sparse.event_batches import EventBatches, Sampling, TowerRows
from candidfeed.retrieval.sparse.sampled_softmax import Products
from candidfeed.retrieval.sparse.tables import SparseEmbedding

# After candidfeed, which chooses the backend.
import keras  # isort: skip

N_USERS, N_ITEMS, N_GROUPS, DIM, LENGTH = 120, 60, 4, 8, 6
RNG = np.random.default_rng(0)
# Users of a group take items of that group; the first word of a title names the group.
GROUP = np.arange(N_ITEMS) % N_GROUPS
USER = np.repeat(np.arange(N_USERS, dtype=np.int32), 12)
ITEM = np.array([RNG.choice(np.flatnonzero(GROUP == u % N_GROUPS)) for u in USER], np.int32)
TITLES = np.stack(
    [GROUP + 1, *(RNG.integers(N_GROUPS + 1, 30, size=N_ITEMS) for _ in range(3))], axis=1
).astype(np.int32)
HISTORY = np.stack([ITEM[np.flatnonzero(USER == u)[:LENGTH]] for u in range(N_USERS)])
USERS = TowerRows(N_USERS, {"history": HISTORY})
ITEMS = TowerRows(N_ITEMS, {"words": TITLES})
SAMPLING = Sampling(n_uniform=24, n_in_batch=8)


@keras.saving.register_keras_serializable("tests")
class OverRoot(keras.layers.Layer):
    """Sum of a history's embeddings over the root of their count; `n_items` is padding."""

    def __init__(self, n_items: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.n_items = n_items

    def call(self, history, rows):
        count = keras.ops.sum(keras.ops.cast(history < self.n_items, "float32"), 1, keepdims=True)
        return keras.ops.sum(rows, axis=1) / keras.ops.sqrt(keras.ops.maximum(count, 1.0))

    def get_config(self):
        return {**super().get_config(), "n_items": self.n_items}


def history_tower() -> keras.Model:
    history = keras.Input((LENGTH,), dtype="int32", name="history")
    rows = SparseEmbedding(N_ITEMS, DIM, seed=1, name="history_rows")(history)
    return keras.Model({"history": history}, OverRoot(N_ITEMS)(history, rows))


def title_tower() -> keras.Model:
    """A small convolution over the words of a title."""
    words = keras.Input((TITLES.shape[1],), dtype="int32", name="words")
    seeded = keras.initializers.GlorotUniform(seed=2)
    hidden = keras.layers.Embedding(30, 16, embeddings_initializer=seeded)(words)
    hidden = keras.layers.Conv1D(16, 2, activation="relu", kernel_initializer=seeded)(hidden)
    hidden = keras.layers.GlobalMaxPooling1D()(hidden)
    return keras.Model({"words": words}, keras.layers.Dense(DIM, kernel_initializer=seeded)(hidden))


def batches(**options) -> EventBatches:
    return EventBatches(
        USER, ITEM, users=USERS, items=ITEMS, batch_size=96, sampling=SAMPLING,
        hide_target_in=("history",), **options,
    )  # fmt: skip


def fitted(epochs: int = 30) -> Retrieval:
    model = Retrieval(history_tower(), title_tower())
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(batches(), epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="module")
def model() -> Retrieval:
    return fitted()


def same_group_share(users: np.ndarray, items: np.ndarray) -> float:
    """Of the ten best items of each user, how many are of the user's group."""
    best = np.argsort(-(users @ items.T), axis=1)[:, :10]
    return float((GROUP[best] == np.arange(len(users))[:, None] % N_GROUPS).mean())


def test_a_history_tower_and_a_convolution_over_titles_learn_who_takes_what(
    model: Retrieval,
) -> None:
    assert same_group_share(model.user_vectors(USERS), model.item_vectors(ITEMS)) > 0.95
    losses = model.history.history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert len(losses) == 30


def test_an_item_that_was_never_trained_is_found_by_its_words(model: Retrieval) -> None:
    words = np.array([[g + 1, 28, 29, 27] for g in range(N_GROUPS)], np.int32)
    new = model.item_vectors(TowerRows(N_GROUPS, {"words": words}))
    closest = np.argmax(model.user_vectors(USERS) @ new.T, axis=1)
    assert (closest == np.arange(N_USERS) % N_GROUPS).mean() > 0.95


def test_one_seed_gives_one_set_of_weights(model: Retrieval) -> None:
    for one, same in zip(model.get_weights(), fitted().get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


def test_vectors_in_parts_are_those_of_the_tower(model: Retrieval, tmp_path: Path) -> None:
    whole = np.asarray(model.item_tower({"words": TITLES}))
    np.testing.assert_allclose(model.item_vectors(ITEMS), whole, atol=1e-6)
    kept = np.lib.format.open_memmap(tmp_path / "v.npy", "w+", np.float32, whole.shape)
    found = model.item_vectors(ITEMS, batch_size=7, out=kept)
    assert found is kept
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), whole, atol=1e-6)
    assert tower_vectors(model.item_tower, TowerRows(1, {"words": TITLES[:1]})).shape == (1, DIM)


def test_a_model_is_saved_and_loaded_whole(model: Retrieval, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, Retrieval)
    np.testing.assert_array_equal(loaded.user_vectors(USERS), model.user_vectors(USERS))
    np.testing.assert_array_equal(loaded.item_vectors(ITEMS), model.item_vectors(ITEMS))


def test_validation_early_stopping_and_summary_work_as_in_keras() -> None:
    model = Retrieval(history_tower(), title_tower(), temperature=0.5)
    model.compile(optimizer="adam", steps_per_execution=3)
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, min_delta=100.0)
    history = model.fit(
        batches(), validation_data=batches(seed=1), epochs=9, verbose=0, callbacks=[stop]
    )
    assert len(history.history["val_loss"]) == 2
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert "Total params" in "\n".join(map(str, lines))


def test_towers_that_take_nothing_but_rows_and_share_a_table_learn() -> None:
    shared = SparseEmbedding(N_ITEMS, DIM, seed=4, name="shared")

    def tower(n: int, layer: keras.layers.Layer) -> keras.Model:
        row = keras.Input((), dtype="int32")
        return keras.Model(row, layer(row))

    model = Retrieval(tower(N_ITEMS, shared), tower(N_ITEMS, shared))
    model.compile(optimizer="adam")
    items = TowerRows(N_ITEMS)
    # Items that are taken one after another.
    pairs = EventBatches(
        HISTORY[:, 0], HISTORY[:, 1], users=items, items=items, batch_size=40, sampling=SAMPLING
    )
    model.fit(pairs, epochs=20, verbose=0)
    assert model.history.history["loss"][-1] < model.history.history["loss"][0]
    assert len(model.sparse_layers) == 1


def test_hard_negatives_push_down_what_they_name() -> None:
    def hard(users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return np.full((len(users), 1), 3, np.int32)

    def score_of_item_3(sampling: Sampling) -> float:
        model = Retrieval(history_tower(), title_tower())
        model.compile(optimizer=keras.optimizers.Adam(0.01))
        events = EventBatches(USER, ITEM, users=USERS, items=ITEMS, batch_size=96,
                              sampling=sampling)  # fmt: skip
        model.fit(events, epochs=10, verbose=0)
        return float((model.user_vectors(USERS) @ model.item_vectors(ITEMS)[3]).mean())

    assert score_of_item_3(Sampling(24, 8, hard=hard)) < score_of_item_3(Sampling(24, 8)) - 0.2


def test_a_temperature_that_can_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0, not 0"):
        Retrieval(history_tower(), title_tower(), temperature=0)


def test_towers_of_different_lengths_are_refused() -> None:
    row = keras.Input((), dtype="int32")
    wide = keras.Model(row, SparseEmbedding(N_ITEMS, DIM + 1)(row))
    model = Retrieval(wide, title_tower())
    model.compile(optimizer="adam")
    events = EventBatches(USER, ITEM, users=TowerRows(N_USERS), items=ITEMS, batch_size=96)
    with pytest.raises(ValueError, match="user tower gives 9 numbers and the item tower 8"):
        model.fit(events, verbose=0)


def test_a_log_of_one_item_trains_without_a_loss_to_speak_of() -> None:
    model = Retrieval(history_tower(), title_tower())
    model.compile(optimizer="adam")
    same = np.full_like(ITEM, 5)
    events = EventBatches(USER, same, users=USERS, items=ITEMS, batch_size=96,
                          sampling=Sampling(0, 16))  # fmt: skip
    assert model.fit(events, verbose=0).history["loss"] == [0.0]


def losses_of(policy: str, products: Products) -> list[float]:
    def tower(n: int, seed: int) -> keras.Model:
        row = keras.Input((), dtype="int32")
        return keras.Model(row, SparseEmbedding(n, DIM, seed=seed, dtype=policy)(row))

    model = Retrieval(tower(N_USERS, 0), tower(N_ITEMS, 1), products=products)
    model.compile(optimizer="adam")
    rows = {"users": TowerRows(N_USERS), "items": TowerRows(N_ITEMS)}
    batches = EventBatches(USER, ITEM, batch_size=96, sampling=SAMPLING, **rows)
    model.fit(batches, epochs=8, verbose=0)
    assert {str(one.table.dtype) for one in model.sparse_layers} == {"float32"}
    return model.history.history["loss"]


def test_towers_and_products_of_bfloat16_learn_as_those_of_float32() -> None:
    exact = losses_of("float32", "float32")
    np.testing.assert_allclose(losses_of("float32", "bfloat16"), exact, rtol=0.01)
    np.testing.assert_allclose(losses_of("mixed_bfloat16", "float32"), exact, rtol=0.01)
