"""What is exported gives what Keras gives, needs no Keras, and holds what it reads and no more."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from candidfeed.data.tables import Dataset
from candidfeed.errors import ReleaseError
from candidfeed.feed.scoring import tower_inputs, user_state
from candidfeed.feed.served import Served
from candidfeed.ranking.inputs import DENSE_FEATURES, ranker_inputs
from candidfeed.release.export import export_function, export_pair
from candidfeed.training.two_stage import TwoStage


def small_model() -> keras.Model:
    """One with what makes an export hard: dropout, normalisation, weights that are not read."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Dense(8, "relu", name="first"),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ],
        name="small",
    )
    model.build((None, 3))
    return model


def test_any_keras_model_gives_the_same_without_keras() -> None:
    model = small_model()
    inputs = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}
    function = export_function(model, lambda x: {"out": model(x["x"], training=False)}, inputs)
    expected = np.asarray(model(inputs["x"], training=False))
    np.testing.assert_allclose(function(inputs)["out"], expected, atol=1e-6)


def test_only_the_weights_that_are_read_are_kept_and_the_models_name_is_not() -> None:
    model = small_model()
    inputs = {"x": np.zeros((1, 3), np.float32)}
    function = export_function(model, lambda x: model.layers[0](x["x"]), inputs)
    assert sorted(function.weights) == ["first/bias", "first/kernel"]


def test_two_exports_give_the_same_bytes(tiny: Dataset, tiny_whole: TwoStage) -> None:
    first, second = (export_pair(tiny, tiny_whole) for _ in range(2))
    assert first.tower.stablehlo == second.tower.stablehlo
    assert first.ranker.stablehlo == second.ranker.stablehlo


def test_an_export_names_no_folder_of_the_machine_that_made_it(tiny_exported: Served) -> None:
    for function in (tiny_exported.tower, tiny_exported.ranker):
        assert b".py" not in function.stablehlo
        assert b"site-packages" not in function.stablehlo


def test_a_weight_that_is_not_finite_is_refused_by_name() -> None:
    model = small_model()
    model.layers[0].kernel.assign(np.full((3, 8), np.nan))
    with pytest.raises(ReleaseError, match=r"small: first/kernel is not finite after training"):
        export_function(model, lambda x: model.layers[0](x["x"]), {"x": np.zeros((1, 3), "f4")})


def test_the_user_tower_gives_the_vectors_of_keras(
    tiny_exported: Served, tiny_whole: TwoStage
) -> None:
    served, tower = tiny_exported, tiny_whole.tower
    scores = tiny_whole.sources.tower.scores(np.arange(60, dtype=np.int32))
    for row in range(60):
        person = served.person(served.users.id_of(row))
        inputs = tower_inputs(person, served.settings, item_vectors=served.item_vectors)
        vector = served.tower(inputs)
        expected = np.asarray(tower.model.user_vectors(inputs))
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        # The products with the item vectors are the scores that the evaluation measured.
        np.testing.assert_allclose(served.item_vectors @ vector[0], scores[row], atol=1e-4)


def test_the_ranker_gives_the_heads_of_keras(tiny_exported: Served, tiny_whole: TwoStage) -> None:
    served, model, rng = tiny_exported, tiny_whole.ranker.model, np.random.default_rng(0)
    width = served.settings.candidate_width
    for row in range(0, 60, 7):
        person = served.person(served.users.id_of(row))
        state = user_state(served.space, person, width=64, now_s=person.last_time_s)
        items = rng.integers(0, served.n_items + 1, (1, width)).astype(np.int32)
        dense = rng.normal(size=(1, width, len(DENSE_FEATURES))).astype(np.float32)
        inputs = ranker_inputs(served.space, state, items, dense)
        expected: dict[str, Any] = model(inputs, training=False)
        found = served.ranker(inputs)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_allclose(array, np.asarray(expected[name]), atol=1e-5)


def test_shapes_are_whole_groups_of_rows_and_no_longer_than_is_learned_from(
    tiny_exported: Served, tiny_whole: TwoStage, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_exported.settings
    assert (settings.n_candidates, settings.candidate_width) == (20, 64)
    assert (settings.tower_width, settings.ranker_width) == (64, 64)
    monkeypatch.setattr("candidfeed.release.export.MAX_TOWER_HISTORY", 3)
    more = replace(tiny_whole, settings=replace(tiny_whole.settings, n_candidates=500))
    settings = export_pair(tiny, more).settings
    assert (settings.n_candidates, settings.tower_width) == (40, 64)


def test_sensitive_columns_and_long_texts_are_not_in_a_release(tiny_exported: Served) -> None:
    assert tiny_exported.items.columns == ["item_id", "title", "tags"]
    assert [column.name for column in tiny_exported.user_map.columns] == ["job"]
    assert [column.name for column in tiny_exported.item_map.columns] == ["tags", "words"]
