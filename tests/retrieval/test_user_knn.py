"""User neighbours, against a slow loop; one person alone gets the bits of many together."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.user_knn import UserKnn

N_USERS, N_ITEMS = 6, 7
EVERYONE = np.arange(N_USERS, dtype=np.int32)
Pairs = set[tuple[int, int]]


def events_of(pairs: Pairs) -> Interactions:
    user, item = zip(*sorted(pairs), strict=True) if pairs else ((), ())
    return Interactions(
        user=np.array(user, np.int32),
        item=np.array(item, np.int32),
        value=np.ones(len(pairs), np.float32),
        time_s=np.full(len(pairs), np.nan),
        n_users=N_USERS,
        n_items=N_ITEMS,
    )


def by_loop(train: Pairs, known: Pairs, user: int, k: int, shrink: float) -> np.ndarray:
    own = {item for one, item in known if one == user}
    if not own:
        return np.array(
            [sum((u, item) in train for u in range(N_USERS)) for item in range(N_ITEMS)]
        )
    found = []
    for other in range(N_USERS):
        items = {item for one, item in train if one == other}
        if other != user and own & items:
            similar = len(own & items) / (np.sqrt(len(own) * len(items)) + shrink)
            found.append((-round(similar, 12), other, items))
    scores, nearest = np.zeros(N_ITEMS), sorted(found, key=lambda one: one[:2])[:k]
    for minus_similar, _, items in nearest:
        scores[list(items)] -= minus_similar / -sum(one[0] for one in nearest)
    return scores


some_pairs = st.sets(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)), min_size=1, max_size=30
)


@given(some_pairs, some_pairs, st.integers(1, 4), st.sampled_from([0.0, 3.0, 100.0]))
def test_scores_are_the_weighted_share_of_the_nearest_others(
    train: Pairs, history: Pairs, k: int, shrink: float
) -> None:
    known = train | history
    model = UserKnn.fit(events_of(train), known=events_of(known), k=k, shrink=shrink)
    expected = np.stack([by_loop(train, known, user, k, shrink) for user in range(N_USERS)])
    np.testing.assert_allclose(model.scores(EVERYONE), expected, atol=1e-5)


@given(some_pairs, some_pairs, st.randoms(use_true_random=False))
def test_one_person_gets_the_same_bits_alone_and_in_any_order_of_their_past(
    train: Pairs, history: Pairs, random: Random
) -> None:
    known = events_of(train | history)
    model = UserKnn.fit(events_of(train), known=known, k=3, shrink=10.0)
    together = model.scores(EVERYONE)
    for user in range(N_USERS):
        items = [int(item) for item in known.matrix[user].indices]
        random.shuffle(items)
        alone = model.neighbours.scores(np.array(items, np.int32), user)
        if items:
            np.testing.assert_array_equal(alone, together[user])


@given(some_pairs)
def test_what_an_item_adds_is_what_the_score_falls_by_without_it(pairs: Pairs) -> None:
    neighbours = UserKnn.fit(events_of(pairs), known=events_of(pairs), k=3, shrink=1.0).neighbours
    touched, candidates = np.array([1, 4, 5], np.int32), np.array([0, 6, 2], np.int32)
    whole = neighbours.scores(touched, N_USERS)[candidates]
    without = [neighbours.scores(np.delete(touched, at), N_USERS)[candidates] for at in range(3)]
    found = neighbours.contributions(touched, candidates, N_USERS)
    np.testing.assert_allclose(found, whole - np.stack(without), atol=1e-6)


def test_nobody_is_their_own_neighbour_and_a_stranger_has_all() -> None:
    train = events_of({(0, 0), (0, 1), (1, 0), (1, 2)})
    neighbours = UserKnn.fit(train, known=train, k=5, shrink=0.0).neighbours
    touched = np.array([0], np.int32)
    assert neighbours.scores(touched, 0).tolist() == [1, 0, 1, 0, 0, 0, 0]
    assert neighbours.scores(touched, N_USERS).tolist() == [1, 0.5, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(("k", "shrink"), [(0, 1.0), (3, -1.0)])
def test_settings_without_a_meaning_are_refused(k: int, shrink: float) -> None:
    nothing = events_of(set())
    with pytest.raises(ValueError, match=f"not {k} and {shrink}"):
        UserKnn.fit(nothing, known=nothing, k=k, shrink=shrink)
