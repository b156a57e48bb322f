"""Draws as a part of the ranker: the head against a slow loop over its draws, and its share."""

import numpy as np
import pytest
from scipy.special import ndtr

from candidfeed.ranking.posterior import Draws, FoldIn
from candidfeed.ranking.posterior_head import KNOWN_SHARE, NEW_SHARE, PosteriorHead

N_USERS, N_ITEMS, N_DRAWS, DIM, LEVELS = 4, 6, 5, 3, 4
LEARNED_FROM = np.array([True, True, False, True])
Inputs = dict[str, np.ndarray]


def floats(*shape: int, seed: int) -> np.ndarray:
    return (0.5 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def some_draws() -> tuple[Draws, np.ndarray, FoldIn]:
    width = DIM + 1
    draws = Draws(
        users=floats(N_DRAWS, N_USERS, width, seed=1),
        items=floats(N_DRAWS, N_ITEMS, width, seed=2),
        user_noise=floats(N_DRAWS, N_USERS, seed=3),
        item_noise=floats(N_DRAWS, N_ITEMS, seed=4),
        user_mean=floats(N_DRAWS, width, seed=5),
        user_links=(floats(N_DRAWS, N_ITEMS, width, seed=6), floats(N_DRAWS, 3, width, seed=7)),
        cuts=np.tile(np.array([-1.0, 0.2, 0.8], np.float32), (N_DRAWS, 1)),
    )
    unknown = FoldIn(floats(N_DRAWS, seed=8), floats(N_DRAWS, N_ITEMS, width, seed=9))
    return draws, draws.user_links[1], unknown


@pytest.fixture(scope="module")
def head() -> PosteriorHead:
    made = PosteriorHead(n_users=N_USERS, n_items=N_ITEMS, n_user_ids=3, n_levels=LEVELS,
                         n_draws=N_DRAWS, dim=DIM)  # fmt: skip
    made.build()
    made.take(*some_draws(), LEARNED_FROM)
    return made


def inputs() -> Inputs:
    """A known user, one who was not learned from, and an unknown one without a history."""
    return {
        "user": np.array([1, 2, N_USERS], np.int32),
        "user_feature_ids": np.array([[1], [2], [0]], np.int32),
        "user_feature_weights": np.array([[1.0], [0.5], [0.0]], np.float32),
        "history": np.array([[0, 3, N_ITEMS], [5, 1, 2], [N_ITEMS] * 3], np.int32),
        "history_tone": np.array([[0.4, -0.3, 0], [1, 0, -2], [0, 0, 0]], np.float32),
        "user_tone": np.array([0.3, -0.2, 0.0], np.float32),
        "item": np.array([[0, 5], [2, 4], [1, 3]], np.int32),
    }


def vector(draw: int, asked: Inputs, row: int) -> np.ndarray:
    """A user's numbers in one draw, as `Draws` and `FoldIn` say."""
    draws, features, unknown = some_draws()
    user, history = asked["user"][row], asked["history"][row]
    real = history < N_ITEMS
    root = np.sqrt(max(real.sum(), 1))
    found = draws.user_mean[draw] + draws.user_links[0][draw][history[real]].sum(axis=0) / root
    ids, weights = asked["user_feature_ids"][row], asked["user_feature_weights"][row]
    found = found + (features[draw][ids] * weights[:, None]).sum(axis=0)
    if user < N_USERS and LEARNED_FROM[user]:
        return found + draws.users[draw, user]
    tones = asked["history_tone"][row][real]
    found = found + tones @ unknown.tone_links[draw][history[real]] / root
    found[-1] += unknown.tone_gain[draw] * asked["user_tone"][row]
    return found


def test_the_head_integrates_the_normal_that_its_draws_make(head: PosteriorHead) -> None:
    asked, (draws, _, _) = inputs(), some_draws()
    found = np.asarray(head(asked))
    for row, items in enumerate(asked["item"]):
        user = asked["user"][row]
        is_known = user < N_USERS and LEARNED_FROM[user]
        for place, item in enumerate(items):
            left = np.stack([vector(d, asked, row) for d in range(N_DRAWS)])
            right = draws.items[:, item]
            utility = (left[:, :-1] * right[:, :-1]).sum(axis=1) + left[:, -1] + right[:, -1]
            noise = np.exp(draws.item_noise[:, item] + is_known * draws.user_noise[:, user % 4])
            deviation = np.sqrt(utility.var() + np.mean(noise**2))
            edges = np.array([-np.inf, -1.0, 0.2, 0.8, np.inf])
            expected = np.diff(ndtr((edges - utility.mean()) / deviation))
            np.testing.assert_allclose(found[row, place], expected, atol=1e-5)


def test_who_was_learned_from_hears_more_of_it_than_others(head: PosteriorHead) -> None:
    asked = inputs()
    shares = np.asarray(head.user_part(asked)["posterior_share"])[:, 0]
    np.testing.assert_allclose(shares, [KNOWN_SHARE, NEW_SHARE, NEW_SHARE], rtol=1e-6)


def test_a_click_changes_what_is_said_of_every_user(head: PosteriorHead) -> None:
    before, clicked = inputs(), inputs()
    clicked["history"][:, 2] = 4
    moved = np.abs(np.asarray(head(clicked)) - np.asarray(head(before))).max(axis=(1, 2))
    assert (moved > 1e-3).all()


def test_a_head_without_draws_has_no_share() -> None:
    empty = PosteriorHead(n_users=N_USERS, n_items=N_ITEMS, n_user_ids=3, n_levels=2, n_draws=2,
                          dim=1)  # fmt: skip
    empty.build()
    np.testing.assert_array_equal(np.asarray(empty.user_part(inputs())["posterior_share"]), 0.0)
