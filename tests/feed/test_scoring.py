"""The exported ranker: any number of candidates, each for itself, the user's part once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.feed.newcomers import Newcomer
from candidfeed.feed.scoring import dense_of, known_of, predictions, ranked_heads, user_state
from candidfeed.feed.served import Person, Rows, Served
from candidfeed.ranking.inputs import DENSE_FEATURES, dense_features
from candidfeed.ranking.user_state import UserState

N_MANY = 501


def someone(served: Served) -> Person:
    return served.person(served.users.id_of(0))


def asked(served: Served, n: int = N_MANY) -> tuple[UserState, Rows, np.ndarray]:
    """A state, n rows of which many are the same, and dense features that are not."""
    rng = np.random.default_rng(2)
    state = user_state(served.space, someone(served), width=64, now_s=1.7e9)
    rows = rng.integers(0, served.n_items, n).astype(np.int32)
    return state, rows, rng.normal(size=(n, len(DENSE_FEATURES))).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 500])
def test_a_prediction_has_the_same_bits_however_many_are_asked_for(
    tiny_served: Served, n: int
) -> None:
    state, rows, dense = asked(tiny_served)
    every = predictions(tiny_served, state, rows, dense)
    some = predictions(tiny_served, state, rows[:n], dense[:n])
    assert some.keys() == every.keys() >= {"engaged", "rating"}
    for name, one in some.items():
        assert (len(one), len(every[name])) == (n, N_MANY)
        np.testing.assert_array_equal(one, every[name][:n])


def test_a_prediction_has_the_same_bits_in_any_order(tiny_served: Served) -> None:
    state, rows, dense = asked(tiny_served)
    every = predictions(tiny_served, state, rows, dense)
    order = np.random.default_rng(3).permutation(N_MANY)
    for name, one in predictions(tiny_served, state, rows[order], dense[order]).items():
        np.testing.assert_array_equal(one, every[name][order])


def test_a_head_has_the_same_bits_alone_and_among_more_than_are_scored_at_once(
    tiny_served: Served,
) -> None:
    person, rows = someone(tiny_served), asked(tiny_served)[1]
    scores = np.linspace(0, 1, len(rows), dtype=np.float32)

    def heads(places: np.ndarray) -> np.ndarray:
        known = known_of(
            tiny_served, person, rows[places],
            tower=scores[places], neighbour=scores[places], now_s=1.7e9,
        )  # fmt: skip
        found = ranked_heads(tiny_served, known)
        return np.stack([found.p_engaged, found.p_like, found.rating])

    every = heads(np.arange(N_MANY))
    for place in (0, 63, 64, 500):
        np.testing.assert_array_equal(heads(np.array([place]))[:, 0], every[:, place])


def test_as_many_are_scored_at_once_as_the_release_says(tiny_served: Served) -> None:
    calls: list[int] = []

    class Counted:
        reads = tiny_served.ranker.reads

        def __call__(self, inputs: Any) -> Any:
            calls.append(inputs["item"].shape[1])
            return tiny_served.ranker(inputs)

    changed: dict[str, Any] = {"ranker": Counted()}
    state, rows, dense = asked(tiny_served, n=150)
    predictions(replace(tiny_served, **changed), state, rows, dense)
    width = tiny_served.settings.candidate_width
    assert calls == [width] * -(-150 // width)


def test_a_newcomer_has_the_features_of_an_untouched_item_of_the_release(
    tiny_served: Served,
) -> None:
    untouched = np.flatnonzero(tiny_served.n_people == 0)[:1].astype(np.int32)
    bag = tiny_served.space.item_bag
    served = replace(tiny_served)
    row = served.newcomers.put(
        [
            Newcomer(
                item_id="new", born_s=1.7e9, fields={},
                bag=Bag(bag.ids[untouched], bag.weights[untouched]),
                vector=served.item_vectors[untouched[0]],
            )
        ]
    )  # fmt: skip
    assert row.tolist() == [served.n_items]
    rows = np.concatenate([[3], row, untouched, [5]]).astype(np.int32)
    scores = np.array([0.3, 0.2, 0.2, 0.1], np.float32)
    person = someone(served)
    state = user_state(served.space, person, width=64, now_s=1.7e9)
    dense = dense_of(served, state, rows, scores, np.zeros(4, np.float32))
    np.testing.assert_array_equal(dense[1], dense[2])
    alone = dense_of(served, state, rows[[0, 2, 3]], scores[[0, 2, 3]], np.zeros(3, np.float32))
    np.testing.assert_array_equal(dense[[0, 2, 3]], alone)
    np.testing.assert_array_equal(*served.vectors_of(rows[1:3]))


def test_features_of_one_user_are_those_of_a_batch_to_the_last_bit(tiny_served: Served) -> None:
    space, rng = tiny_served.space, np.random.default_rng(4)
    people = [tiny_served.person(tiny_served.users.id_of(row)) for row in (0, 1, 2)]
    states = [user_state(space, one, width=64, now_s=1.7e9) for one in people]
    items = rng.integers(0, tiny_served.n_items + 1, (3, 9)).astype(np.int32)
    scores = rng.normal(size=(2, 3, 9)).astype(np.float32)
    joined = _joined(states)
    batch = dense_features(space, joined, items, tower=scores[0], neighbour=scores[1])
    for place, state in enumerate(states):
        one = slice(place, place + 1)
        alone = dense_features(
            space, state, items[one], tower=scores[0][one], neighbour=scores[1][one]
        )
        np.testing.assert_array_equal(alone, batch[one])


def _joined(states: list[UserState]) -> UserState:
    first = states[0]
    bag = replace(
        first.bag,
        ids=np.concatenate([state.bag.ids for state in states]),
        weights=np.concatenate([state.bag.weights for state in states]),
    )
    others = {
        name: np.concatenate([getattr(state, name) for state in states])
        for name in ("row", "history", "tone", "times_s", "mean_rating", "now_s")
    }
    return UserState(bag=bag, **others)
