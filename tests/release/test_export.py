"""What is exported gives what Keras gives, needs no Keras, and holds what it reads and no more."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from candidfeed.data.tables import Dataset, Label
from candidfeed.errors import ReleaseError
from candidfeed.feed.scoring import (
    action_predictions,
    predictions,
    tower_inputs,
    user_state,
)
from candidfeed.feed.served import Served
from candidfeed.ranking.action_inputs import ActionSpace, Rates
from candidfeed.ranking.inputs import DENSE_FEATURES, ranker_inputs
from candidfeed.ranking.ranker import Ranker
from candidfeed.ranking.user_state import UserState
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


def test_a_table_that_is_read_is_kept_beside_the_weights_and_another_is_not() -> None:
    model, tables = small_model(), {"read": np.eye(3, dtype=np.float32), "other": np.ones(5)}
    function = export_function(
        model, lambda x, held: model.layers[0](held["read"][x["row"]]),
        {"row": np.zeros(4, np.int32)}, tables=tables,
    )  # fmt: skip
    assert sorted(function.weights) == ["first/bias", "first/kernel", "table/read"]
    rows = np.array([2, 0, 1, 2], np.int32)
    expected = np.asarray(model.layers[0](tables["read"][rows]))
    np.testing.assert_allclose(function({"row": rows}), expected, atol=1e-6)


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
    for row in range(0, 60, 7):
        person = served.person(served.users.id_of(row))
        state = user_state(served.space, person, width=64, now_s=person.last_time_s)
        # What the person has touched is among them.
        items = rng.integers(0, served.n_items, 30).astype(np.int32)
        dense = rng.normal(size=(30, len(DENSE_FEATURES))).astype(np.float32)
        inputs = ranker_inputs(served.space, state, items[None], dense[None])
        expected: dict[str, Any] = model(inputs, training=False)
        found = predictions(served, state, items, dense)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_allclose(array, np.asarray(expected[name])[0], atol=1e-5)


def with_every_part(pair: TwoStage) -> TwoStage:
    """The pair with a ranker that has draws and action heads too, all its weights at random."""
    rng, old = np.random.default_rng(5), pair.ranker

    def rates(n: int) -> Rates:
        return Rates(rng.normal(size=(n, 2)).astype("f4"), rng.random(n).astype("f4"))

    actions = ActionSpace(
        labels=(Label("like", ("like",)), Label("views", ("view",), counted=True)),
        by_position=np.full((4, 2), 0.1, np.float32),
        items=rates(old.space.n_items),
        users=rates(len(pair.split.users) + 1),
        tastes=rng.normal(size=(old.space.n_items, 8)).astype("f4"),
    )
    space = replace(old.space, actions=actions)
    heads = {"counted": [False, True], "starts": [-2.0, -1.0], "seen": [[0.5, 0.5]] * 4}
    parts = {"n_draws": 3, "draw_dim": 4, "actions": heads}
    model = Ranker.from_config({**old.model.get_config(), **parts})
    items = np.zeros((2, 1), np.int32)
    dense = np.zeros((2, 1, len(DENSE_FEATURES)), np.float32)
    inputs = ranker_inputs(space, pair.states.take(np.array([0, 1])), items, dense)
    model.build({name: array.shape for name, array in inputs.items()})
    for one in model.weights:
        if "/scale/" not in one.path:
            one.assign(rng.normal(size=one.shape, scale=0.3))
    return replace(pair, ranker=replace(old, model=model, space=space))


def test_every_part_of_a_ranker_is_served_as_keras_gives_it_and_for_each_candidate_alone(
    tiny: Dataset, tiny_whole: TwoStage
) -> None:
    pair, rng = with_every_part(tiny_whole), np.random.default_rng(6)
    served, model = export_pair(tiny, pair), pair.ranker.model
    items = rng.integers(0, served.n_items, 70).astype(np.int32)
    dense = rng.normal(size=(70, len(DENSE_FEATURES))).astype(np.float32)
    order = rng.permutation(70)
    for row in (0, 31, 59):
        person = served.person(served.users.id_of(row))
        state = user_state(served.space, person, width=64, now_s=1.7e9)
        expected: dict[str, Any] = model(
            ranker_inputs(served.space, state, items[None], dense[None])
        )

        def said(places: Any, state: UserState = state) -> dict[str, Any]:
            asked = served, state, items[places], dense[places]
            return predictions(*asked) | action_predictions(*asked)

        found, shuffled, alone = said(slice(None)), said(order), said(slice(69, None))
        assert found.keys() == expected.keys() == {"engaged", "rating", "actions"}
        for name, array in found.items():
            np.testing.assert_allclose(array, np.asarray(expected[name])[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(shuffled[name], array[order])
            np.testing.assert_array_equal(alone[name], array[69:])


def test_what_depends_on_an_item_alone_is_computed_once_for_a_release(
    tiny_exported: Served, tiny_whole: TwoStage
) -> None:
    taste = tiny_whole.ranker.model.trunk
    assert taste is not None
    weights = tiny_exported.ranker.weights
    content = np.asarray(taste.content) @ np.asarray(taste.item_features)
    np.testing.assert_allclose(weights["table/row"], np.asarray(taste.items) + content, atol=1e-6)
    # No feature of an item is read for a candidate.
    assert "taste/item_features" not in weights
    assert "taste/users" in weights


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
    assert list(tiny_exported.items.schema) == ["item_id", "title", "tags"]
    assert [column.name for column in tiny_exported.user_map.columns] == ["job"]
    assert [column.name for column in tiny_exported.item_map.columns] == ["tags", "words"]
