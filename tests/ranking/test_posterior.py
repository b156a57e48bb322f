"""The Gibbs sampler: what it recovers, and what its draws say."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import ndtr

from candidfeed.ranking import posterior
from candidfeed.ranking.posterior import Draws, Ratings, draw_posterior

N_USERS, N_ITEMS, N_LEVELS = 120, 80, 5


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "N_BURN_IN", 30)
    monkeypatch.setattr(posterior, "THINNING", 2)


def some_ratings() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """A quarter of all pairs, rated by two tastes and a bias of the item, with noise."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(N_USERS * N_ITEMS)[: N_USERS * N_ITEMS // 4]
    user, item = (part.astype(np.int32) for part in np.divmod(pairs, N_ITEMS))
    tastes, traits = rng.normal(size=(N_USERS, 2)), rng.normal(size=(N_ITEMS, 2))
    utility = (tastes[user] * traits[item]).sum(axis=1) + rng.normal(size=N_ITEMS)[item]
    utility += rng.normal(size=len(user))
    return user, item, np.digitize(utility, [-2.0, -0.7, 0.7, 2.0])


def nothing_known(n: int) -> list[sp.csr_matrix]:
    return [sp.csr_matrix((n, 1))]


def drawn(
    ratings: Ratings, *, seed: int = 0, user_groups: list[sp.csr_matrix] | None = None
) -> Draws:
    return draw_posterior(
        ratings, user_groups=user_groups or nothing_known(N_USERS),
        item_groups=nothing_known(N_ITEMS), n_draws=20, dim=3, seed=seed,
    )  # fmt: skip


def first_ratings(n: int = 1800) -> Ratings:
    user, item, level = (column[:n] for column in some_ratings())
    return Ratings(user, item, level, N_LEVELS)


def level_shares(
    draws: Draws,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    groups: list[sp.csr_matrix],
) -> NDArray[np.float64]:
    """The mean over the draws of each level's probability, float64 [n, levels]."""
    total = np.zeros((len(user), draws.cuts.shape[1] + 1))
    for d in range(len(draws)):
        vectors = draws.user_mean[d] + draws.users[d]
        for columns, links in zip(groups, draws.user_links, strict=True):
            vectors = vectors + columns @ links[d]
        left, right = vectors[user], draws.items[d][item]
        utility = (left[:, :-1] * right[:, :-1]).sum(axis=1) + left[:, -1] + right[:, -1]
        noise = np.exp(draws.user_noise[d][user] + draws.item_noise[d][item])
        edges = np.concatenate([[-np.inf], draws.cuts[d], [np.inf]])
        total += np.diff(ndtr((edges - utility[:, None]) / noise[:, None]), axis=1)
    return total / len(draws)


def test_ratings_that_were_not_drawn_from_are_told_better_than_by_item_means() -> None:
    user, item, level = some_ratings()
    shares = level_shares(drawn(first_ratings()), user[1800:], item[1800:], nothing_known(N_USERS))
    counts = np.bincount(item[:1800], minlength=N_ITEMS) + 1.0
    means = (np.bincount(item[:1800], level[:1800], minlength=N_ITEMS) + 2.0) / counts
    error = np.mean((shares @ np.arange(N_LEVELS) - level[1800:]) ** 2)
    assert error < 0.8 * np.mean((means[item[1800:]] - level[1800:]) ** 2)


def test_one_seed_gives_one_posterior_and_another_seed_another() -> None:
    ratings = first_ratings()
    first, again, other = (drawn(ratings, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.items, again.items)
    assert not np.array_equal(first.items, other.items)
    # The two chains begin at different places.
    assert not np.array_equal(first.items[0], first.items[10])


def test_users_who_rate_at_random_are_found_noisier() -> None:
    user, item, level = some_ratings()
    level = np.where(user < 30, np.random.default_rng(5).integers(0, N_LEVELS, len(user)), level)
    noise = drawn(Ratings(user, item, level, N_LEVELS)).user_noise.mean(axis=0)
    assert noise[:30].mean() > noise[30:].mean() + 0.2
    np.testing.assert_allclose(noise.mean(), 0.0, atol=1e-6)


def test_cuts_ascend_around_a_mean_of_0_even_where_a_level_never_occurs() -> None:
    user, item, level = some_ratings()
    kept = level != 1
    draws = drawn(Ratings(user[kept], item[kept], level[kept], N_LEVELS))
    assert (np.diff(draws.cuts, axis=1) >= 0).all()
    np.testing.assert_allclose(draws.cuts.mean(axis=1), 0.0, atol=1e-6)


@pytest.mark.parametrize("n_columns", [2, 300])
def test_what_a_column_says_of_new_users_is_learned(n_columns: int) -> None:
    """The first column parts users who rate high from those who rate low; the last 20 are new."""
    kind = np.random.default_rng(3).integers(0, 2, N_USERS)
    columns = np.zeros((N_USERS, n_columns))
    columns[:, 0] = kind
    user = np.repeat(np.arange(100, dtype=np.int32), 12)
    item = np.tile(np.arange(12, dtype=np.int32), 100)
    groups = [sp.csr_matrix(columns)]
    ratings = Ratings(user, item, np.where(kind[user] == 1, 4, 0), N_LEVELS)
    draws = drawn(ratings, user_groups=groups)
    # A row that nobody rated is drawn from its prior: without it, as an unknown user is asked for.
    new = np.arange(100, N_USERS, dtype=np.int32)
    draws.users[:, new] = 0.0
    expected = level_shares(draws, new, np.zeros(20, np.int32), groups) @ np.arange(N_LEVELS)
    assert expected[kind[new] == 1].min() > expected[kind[new] == 0].max() + 1.0
