"""Action heads: what is looked at and what is acted on are told apart."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from candidfeed.data.impressions import Impressions
from candidfeed.data.tables import Label
from candidfeed.ranking.action_inputs import ActionSpace, Recent
from candidfeed.ranking.action_training import (
    NO_LABEL,
    ActionBatches,
    ActionLists,
    FittedActions,
    fit_actions,
    inputs_of,
    new_heads,
)
from candidfeed.ranking.actions import ActionHeads, ActionLoss, TargetAttention

CLICK, SECONDS = Label("click", ("click",)), Label("seconds", ("beat",), counted=True)
N_ITEMS, N_USERS, N_DENSE, LENGTH = 12, 40, 3, 8
SEEN = (1.0, 0.5, 0.25)


def space_and_lists(n_lists: int, seed: int) -> tuple[ActionSpace, ActionLists]:
    """P(click) is high where the first dense feature is; places are looked at by SEEN."""
    rng = np.random.default_rng(seed)
    shape = (n_lists, LENGTH)
    dense = rng.normal(size=(*shape, N_DENSE)).astype(np.float32)
    position = rng.integers(1, 4, shape).astype(np.int32)
    # What suits stands above, as in a log.
    dense[..., 0] += (2 - position) * 0.5
    wanted = 1.0 / (1.0 + np.exp(-1.5 * dense[..., 0]))
    clicked = (rng.random(shape) < wanted * np.array(SEEN)[position - 1]).astype(np.float32)
    items = rng.integers(N_ITEMS, size=shape).astype(np.int32)
    older = Impressions(
        user=np.sort(rng.integers(N_USERS, size=shape[0] * LENGTH)).astype(np.int32),
        item=items.ravel(), time_s=np.arange(items.size, dtype=np.float64),
        position=position.ravel(),
        followed=np.stack([clicked.ravel(), 5 * clicked.ravel()], axis=-1),
    )  # fmt: skip
    vectors = rng.normal(size=(N_ITEMS, 6)).astype(np.float32)
    space = ActionSpace.of(older, (CLICK, SECONDS), n_users=N_USERS, item_vectors=vectors)
    nothing = np.zeros((n_lists, 5), np.float32)
    lists = ActionLists(
        user=rng.integers(N_USERS, size=n_lists).astype(np.int32),
        items=items, position=position, dense=dense,
        recent=Recent(rng.integers(N_ITEMS, size=nothing.shape).astype(np.int32), nothing, nothing),
        targets=np.stack([clicked, 5 * clicked], axis=-1),
    )  # fmt: skip
    return space, lists


@pytest.fixture(scope="module")
def fitted() -> tuple[ActionSpace, ActionLists, FittedActions]:
    space, lists = space_and_lists(1_500, seed=0)
    return space, lists, fit_actions(space, lists, n_epochs=6, seed=0)


def said(space: ActionSpace, fitted: FittedActions, lists: ActionLists) -> np.ndarray:
    return np.exp(fitted.heads.expected(fitted.heads(inputs_of(space, lists))))


def test_how_often_each_place_is_looked_at_is_found_though_what_suits_stands_above(
    fitted: tuple[ActionSpace, ActionLists, FittedActions],
) -> None:
    space, _, found = fitted
    seen = np.exp(found.heads.log_seen(np.array([1, 2, 3])))[:, 0]
    np.testing.assert_allclose(seen, SEEN, atol=0.07)
    # What the log shows without a model is further from it.
    assert space.by_position[3, 0] / space.by_position[1, 0] < 0.2


def test_asked_for_at_the_first_place_it_says_what_is_true_there(
    fitted: tuple[ActionSpace, ActionLists, FittedActions],
) -> None:
    space, lists, found = fitted
    first = replace(lists, position=np.ones_like(lists.position))
    wanted = 1.0 / (1.0 + np.exp(-1.5 * lists.dense[..., 0]))
    p = said(space, found, first)
    assert np.abs(p[..., 0] - wanted).mean() < 0.05
    # Each click was worth five seconds.
    assert np.abs(p[..., 1] / 5 - wanted).mean() < 0.12


def test_places_that_the_heads_never_saw_count_as_the_last(
    fitted: tuple[ActionSpace, ActionLists, FittedActions],
) -> None:
    heads = fitted[2].heads
    np.testing.assert_array_equal(heads.log_seen(np.array([9])), heads.log_seen(np.array([3])))


def test_a_refit_is_the_same_to_the_last_bit() -> None:
    space, lists = space_and_lists(100, seed=1)
    one, other = (fit_actions(space, lists, n_epochs=2, seed=3).heads for _ in range(2))
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_best_epoch_is_kept_where_held_lists_are_given() -> None:
    space, lists = space_and_lists(300, seed=2)
    held = lists.take(np.arange(100))
    found = fit_actions(space, lists.take(np.arange(100, 300)), n_epochs=4, seed=0, held=held)
    losses = found.curves["val_loss"]
    assert found.n_epochs == int(np.argmin(losses)) + 1


def test_what_is_padded_teaches_nothing() -> None:
    loss = ActionLoss([False, True])
    rng = np.random.default_rng(0)
    logs = -np.abs(rng.normal(size=(2, 3, 4, 2))).astype(np.float32)
    came = np.array([[[1, 3], [0, 0], [1, 1]], [[0, 0], [1, 2], [0, 0]]], np.float32)
    fewer = came.copy()
    fewer[:, 2] = NO_LABEL
    other = logs.copy()
    other[:, 2] = -9.0
    assert float(loss(fewer, logs)) == pytest.approx(float(loss(fewer, other)), rel=1e-6)
    assert float(loss(came, logs)) != pytest.approx(float(loss(came, other)), rel=1e-3)


def test_the_loss_is_least_where_what_is_said_is_true() -> None:
    loss = ActionLoss([False, True])
    came = np.array([[[1.0, 4.0], [0.0, 0.0], [0.0, 2.0], [0.0, 2.0]]], np.float32)

    def of(p: float, mean: float) -> float:
        logs = np.log(np.broadcast_to(np.array([p, mean], np.float32), (1, 4, 1, 2)))
        return float(loss(came, logs))

    best = of(0.25, 2.0)
    assert best < min(of(0.2, 2.0), of(0.3, 2.0), of(0.25, 1.8), of(0.25, 2.2))


def test_a_candidate_says_the_same_whatever_stands_beside_it() -> None:
    space, lists = space_and_lists(8, seed=3)
    heads = new_heads(space)
    inputs = inputs_of(space, lists)
    heads.build({name: one.shape for name, one in inputs.items()})
    for one in heads.weights:
        if "scale/" not in one.path:
            one.assign(np.random.default_rng(0).normal(size=one.shape, scale=0.3))
    turned = replace(
        lists, items=lists.items[:, ::-1], position=lists.position[:, ::-1],
        dense=lists.dense[:, ::-1], targets=lists.targets[:, ::-1],
    )  # fmt: skip
    np.testing.assert_array_equal(
        np.asarray(heads(inputs)), np.asarray(heads(inputs_of(space, turned)))[:, ::-1]
    )


def test_an_event_like_the_candidate_is_seen_and_padding_is_not() -> None:
    attention = TargetAttention(ways=3)
    taste = np.eye(2, dtype=np.float32)[None]
    facts = np.zeros((1, 3, 4), np.float32)
    facts[0, :2, 0] = 1.0
    recent = np.array([[[1.0, 0.0], [0.0, 0.0], [0.0, 9.0]]], np.float32)
    inputs = {"taste": taste, "recent_taste": recent, "recent_facts": facts}
    found = np.asarray(attention(inputs))[0, :, :3]
    # The mean of both events, then nearly the one that is alike.
    np.testing.assert_allclose(found[0], [0.5, 0.98, 1.0], atol=0.02)
    np.testing.assert_allclose(found[1], 0.0, atol=1e-6)


def test_heads_are_written_and_read_as_keras_layers() -> None:
    space, lists = space_and_lists(8, seed=4)
    heads = new_heads(space)
    again = ActionHeads.from_config(heads.get_config())
    inputs = inputs_of(space, lists)
    first = heads(inputs)
    again(inputs)
    again.set_weights(heads.get_weights())
    np.testing.assert_array_equal(np.asarray(first), np.asarray(again(inputs)))
    assert isinstance(keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(ActionLoss([True]))
    ), ActionLoss)  # fmt: skip


def test_batches_hold_every_list_and_their_last_is_filled() -> None:
    space, lists = space_and_lists(70, seed=5)
    batches = ActionBatches(space, lists, seed=0)
    assert len(batches) == 2
    assert {len(batches[step][1]) for step in range(2)} == {64}
    assert sorted(set(batches.order)) == list(range(70))
