"""The fit of the model of large catalogues, on a small world of five tastes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.retrieval.large import training
from candidfeed.retrieval.large.stream_batches import StreamSampling
from candidfeed.retrieval.large.training import FittedLarge, LargeSettings, fit_large
from candidfeed.retrieval.validation import Asked

N_USERS, N_ITEMS, N_TASTES, N_NEW = 300, 60, 5, 5
SETTINGS = LargeSettings(
    dim=16,
    n_hidden=8,
    id_rate=0.01,
    feature_rate=0.03,
    n_epochs=3,
    sampling=StreamSampling(batch_size=256, n_uniform=32),
)
TASTE_OF = np.arange(N_ITEMS) % N_TASTES
ITEM_BAG = Bag((1 + TASTE_OF).astype(np.int32)[:, None], np.ones((N_ITEMS, 1), np.float32))
NO_USER_BAG = Bag(np.zeros((N_USERS, 1), np.int32), np.zeros((N_USERS, 1), np.float32))


def events_of(user: NDArray[Any], item: NDArray[Any], time_s: NDArray[Any]) -> Interactions:
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.full(len(user), np.nan, np.float32),
        time_s.astype(np.float64),
        N_USERS,
        N_ITEMS,
    )


def world(n_each: int = 8) -> tuple[Interactions, Interactions]:
    """Each user takes items of one taste; the last N_NEW items come out after train."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS), n_each)
    of_taste = rng.integers(N_ITEMS // N_TASTES - 1, size=len(user))
    item = of_taste * N_TASTES + user % N_TASTES
    train = events_of(user, item, np.tile(np.arange(n_each), N_USERS))
    everyone = np.arange(N_USERS)
    later = events_of(everyone, N_ITEMS - N_NEW + everyone % N_TASTES, np.full(N_USERS, n_each))
    return train, later


def fitted(train: Interactions, **options: Any) -> FittedLarge:
    arguments: dict[str, Any] = {
        "user_bag": NO_USER_BAG,
        "item_bag": ITEM_BAG,
        "n_user_ids": 1,
        "n_item_ids": 1 + N_TASTES,
        "settings": SETTINGS,
        "seed": 0,
    }
    return fit_large(train, **{**arguments, **options})


@pytest.fixture(scope="module")
def plain() -> FittedLarge:
    return fitted(world()[0])


def best_of(model: FittedLarge, known: Interactions, user: int, k: int) -> NDArray[np.intp]:
    return np.argsort(-model.scorer(known).scores(np.array([user]))[0], kind="stable")[:k]


def test_every_user_is_offered_items_of_their_taste(plain: FittedLarge) -> None:
    train, _ = world()
    found = plain.scorer(train).scores(np.arange(N_USERS))
    best = np.argsort(-found[:, : N_ITEMS - N_NEW], axis=1)[:, :5]
    assert (TASTE_OF[best] == np.arange(N_USERS)[:, None] % N_TASTES).mean() > 0.99


def test_a_new_item_is_found_by_its_features(plain: FittedLarge) -> None:
    train, _ = world()
    new = plain.scorer(train).scores(np.arange(N_USERS))[:, N_ITEMS - N_NEW :]
    assert (new.argmax(axis=1) == np.arange(N_USERS) % N_TASTES).mean() > 0.99


def test_a_new_user_needs_three_events_and_no_training(plain: FittedLarge) -> None:
    nobody = np.zeros(3, np.int64)
    known = events_of(nobody, np.array([2, 7, 12]), np.arange(3))
    assert set(TASTE_OF[best_of(plain, known, 0, 5)]) == {2}
    other = events_of(nobody, np.array([3, 8, 13]), np.arange(3))
    assert set(TASTE_OF[best_of(plain, other, 0, 5)]) == {3}


def test_a_users_vector_does_not_depend_on_who_else_is_asked_for(plain: FittedLarge) -> None:
    scorer = plain.scorer(world()[0])
    everyone = np.arange(N_USERS)
    together, scores = scorer.user_vectors(everyone), scorer.scores(everyone)
    for user in (0, 70, 299):
        np.testing.assert_array_equal(scorer.user_vectors(np.array([user]))[0], together[user])
        np.testing.assert_array_equal(scorer.scores(np.array([user]))[0], scores[user])


def test_one_seed_gives_one_model(plain: FittedLarge) -> None:
    again = fitted(world()[0])
    for one, other in zip(plain.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_with_a_validation_part_the_best_epoch_is_kept_and_the_curve_begins_before_the_first() -> (
    None
):
    train, later = world()
    asked = Asked(train, later)
    found = fitted(train, validation=asked)
    curve = found.curves["val_ndcg"]
    assert len(curve) == 1 + len(found.curves["loss"])
    assert found.settings.n_epochs == int(np.argmax(curve)) > 0
    told = training._Sample.of(asked, found.scorer(train)).ndcg()
    assert told == pytest.approx(max(curve))


def test_where_training_does_not_gain_the_closed_form_stays() -> None:
    train, later = world()
    start = fitted(train, settings=replace(SETTINGS, n_epochs=0))
    useless = replace(SETTINGS, id_rate=1e-9, feature_rate=1e-9, dense_rate=1e-9)
    found = fitted(train, settings=useless, validation=Asked(train, later))
    assert found.settings.n_epochs == 0
    np.testing.assert_array_equal(found.model.item_vectors(), start.model.item_vectors())


def test_without_features_ids_are_never_hidden_and_nothing_fails() -> None:
    train, _ = world()
    nothing = Bag(np.zeros((N_ITEMS, 1), np.int32), np.zeros((N_ITEMS, 1), np.float32))
    found = fitted(train, item_bag=nothing, n_item_ids=1)
    best = np.argsort(-found.scorer(train).scores(np.arange(50)), axis=1)[:, :3]
    assert (TASTE_OF[best] == np.arange(50)[:, None] % N_TASTES).mean() > 0.9


def test_a_log_without_times_is_read_in_its_order() -> None:
    train, _ = world()
    untimed = replace(train, time_s=np.full(len(train), np.nan))
    assert np.isfinite(fitted(untimed).curves["loss"]).all()


def test_an_empty_log_is_refused_before_anything_is_made() -> None:
    with pytest.raises(DataError, match="at least one event"):
        fitted(world()[0].take(np.arange(0)))


def test_what_does_not_fit_in_memory_is_refused_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("candidfeed.data.memory.available_bytes", lambda: 2**20)
    with pytest.raises(DataError, match=r"the model of 300 users and 60 items needs .* GiB"):
        fitted(world()[0])
