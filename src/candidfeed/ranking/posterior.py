"""A Bayesian ordinal factorisation of ratings: draws of its posterior, by Gibbs sampling in NumPy.

A user's vector is a row of their own around what their history and features say; an item's is a
row of its own around who touched it and what is known of it. A rating is the bin that the inner
product of both, with both biases and noise, falls into; how large the noise is depends on the user
and on the item. Where ratings are few, the average over many draws predicts far better than any one
model that fits them.

Source: Salakhutdinov and Mnih, ICML 2008 (Bayesian matrix factorisation); Simm et al., MLSP 2017
(Macau: features as the prior's mean); Albert and Chib, JASA 1993 (ordered probit by augmentation);
Lakshminarayanan et al., AISTATS 2011 (noise by user and item).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits

from candidfeed.ranking.posterior_sides import Floats, Pairs, Side, known_columns

Rows = NDArray[np.int32]

# Chains find different modes: two of them are better than one of twice the length, and take two
# cores.
N_CHAINS = 2
# With 40 sweeps before the first draw validation MSE is .006 higher; with 64 draws six
# sweeps apart .001 lower, in twice the time.
N_BURN_IN = 100
THINNING = 4
# Cuts hardly move once the chain has begun, and drawing them takes as long as drawing the noise.
_CUTS_EVERY, _CUTS_FIRST = 4, 20
# The precision of a user's noise, and of an item's, is drawn to 1 as if by twice as many ratings.
_NOISE_PRIOR = 10.0
_MIN_SHARE = 1e-4


@dataclass(frozen=True)
class Ratings:
    """What is learned from; one entry a pair of user and item.

    Attributes:
        user, item: rows, aligned.
        level: index of the rating's level, 0 to n_levels - 1.
    """

    user: Rows
    item: Rows
    level: NDArray[np.integer]
    n_levels: int


@dataclass(frozen=True)
class Draws:
    """Kept draws; the last column of a vector is its bias, which meets a 1 on the other side.

    A user's vector is `user_mean` + the sum of `user_links[g]` over group g's columns (history,
    features) + `users`; of an unknown user the last part is 0. An item's is `items` alone.

    Attributes:
        users: float32 [draws, n_users, dim + 1].
        items: float32 [draws, n_items, dim + 1].
        user_noise, item_noise: logs whose sum is the log of the noise's standard deviation,
            float32 [draws, n_users] and [draws, n_items].
        user_mean: float32 [draws, dim + 1].
        user_links: for each group of user columns, float32 [draws, width, dim + 1].
        cuts: where one rating level ends and the next begins, float32 [draws, n_levels - 1]; their
            mean is 0.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    user_noise: NDArray[np.float32]
    item_noise: NDArray[np.float32]
    user_mean: NDArray[np.float32]
    user_links: tuple[NDArray[np.float32], ...]
    cuts: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.cuts)


@dataclass(frozen=True)
class FoldIn:
    """What stands for the row of a user whose ratings were not learned from.

    A vector is the sum of `tone_links` over the tones of their history, divided by the root of its
    length; its bias is that and `tone_gain` times the user's mean rating less that of all.

    Attributes:
        tone_gain: float32 [draws].
        tone_links: float32 [draws, n_items, dim + 1].
    """

    tone_gain: NDArray[np.float32]
    tone_links: NDArray[np.float32]


def draw_posterior(
    ratings: Ratings,
    *,
    user_groups: Sequence[sp.csr_matrix],
    item_groups: Sequence[sp.csr_matrix],
    n_draws: int,
    dim: int,
    seed: int,
) -> Draws:
    """So many draws of `N_CHAINS` chains; the same bits on any number of threads.

    Args:
        user_groups: columns that are known of every user (history over the root of its length,
            features), CSR [n_users, width] each. None may tell a user's ratings: a row would then
            be learned from itself.
        item_groups: likewise of every item.
        dim: length of a draw's vectors.
    """
    # BLAS adds up in another order where it has more threads.
    with threadpool_limits(1, user_api="blas"):
        sides = [[known_columns(columns) for columns in g] for g in (user_groups, item_groups)]
        shares = [n_draws // N_CHAINS + (k < n_draws % N_CHAINS) for k in range(N_CHAINS)]

        def chain(k: int) -> list[list[Floats]]:
            rng = np.random.default_rng([seed, k])
            users, items = (Side.start(known, dim + 1, rng) for known in sides)
            return _chain(ratings, users, items, n_draws=shares[k], rng=rng)

        with ThreadPoolExecutor(N_CHAINS) as pool:
            kept = [draw for part in pool.map(chain, range(N_CHAINS)) for draw in part]
    users, items, user_noise, item_noise, mean, cuts, *links = (
        np.stack(column).astype(np.float32) for column in zip(*kept, strict=True)
    )
    return Draws(users, items, user_noise, item_noise, mean, tuple(links), cuts)


def _chain(
    ratings: Ratings, users: Side, items: Side, *, n_draws: int, rng: np.random.Generator
) -> list[list[Floats]]:
    user, item, level = ratings.user, ratings.item, ratings.level
    by_user, by_item = (
        Pairs.of(user, item, users.n, items.n),
        Pairs.of(item, user, items.n, users.n),
    )
    cuts = _first_cuts(ratings)
    kept: list[list[Floats]] = []
    for step in range(N_BURN_IN + n_draws * THINNING):
        utility = _utility(users.vectors, items.vectors, user, item)
        noise = 1.0 / np.sqrt(users.precision_of_noise[user] * items.precision_of_noise[item])
        if step < _CUTS_FIRST or step % _CUTS_EVERY == 0:
            cuts = _draw_cuts(cuts, utility, noise, level, rng)
        wanted = _draw_utility(cuts, utility, noise, level, rng)
        squares = (wanted - utility) ** 2
        _draw_noise(users, user, squares * items.precision_of_noise[item], rng)
        _draw_noise(items, item, squares * users.precision_of_noise[user], rng)
        weight = users.precision_of_noise[user] * items.precision_of_noise[item]
        users.draw_prior(rng)
        users.draw_vectors(by_user, wanted - items.vectors[item, -1], weight, items.vectors, rng)
        items.draw_prior(rng)
        items.draw_vectors(by_item, wanted - users.vectors[user, -1], weight, users.vectors, rng)
        if step >= N_BURN_IN and (step - N_BURN_IN) % THINNING == THINNING - 1:
            kept.append(_draw(users, items, cuts))
    return kept


def _draw(users: Side, items: Side, cuts: Floats) -> list[Floats]:
    """The fields of `Draws`, links last.

    Where nothing tells the place of all cuts from that of all users: their mean is put at 0.
    """
    mean = users.mean.copy()
    mean[-1] -= cuts.mean()
    noises = (-0.5 * np.log(side.precision_of_noise) for side in (users, items))
    links = [link.weights for link in users.links]
    own = users.vectors - users.expected()
    return [own, items.vectors, *noises, mean, cuts - cuts.mean(), *links]


def _first_cuts(ratings: Ratings) -> Floats:
    shares = np.bincount(ratings.level, minlength=ratings.n_levels) / len(ratings.level)
    below = np.clip(np.cumsum(shares)[:-1], _MIN_SHARE, 1 - _MIN_SHARE)
    return _increasing(ndtri(below))


def _utility(users: Floats, items: Floats, user: Rows, item: Rows) -> Floats:
    left, right = users[user], items[item]
    return np.einsum("nk,nk->n", left[:, :-1], right[:, :-1]) + left[:, -1] + right[:, -1]


def _draw_noise(side: Side, rows: Rows, squares: Floats, rng: np.random.Generator) -> None:
    """Precisions of the rows' noise, whose geometric mean is 1: the cuts hold the scale."""
    count, total = np.bincount(rows, minlength=side.n), np.bincount(rows, squares, side.n)
    drawn = rng.gamma(_NOISE_PRIOR + count / 2) / (_NOISE_PRIOR + total / 2)
    side.precision_of_noise = drawn / np.exp(np.log(drawn).mean())


def _edges(cuts: Floats) -> Floats:
    return np.concatenate([[-np.inf], cuts, [np.inf]])


def _draw_utility(
    cuts: Floats,
    utility: Floats,
    noise: Floats,
    level: NDArray[np.integer],
    rng: np.random.Generator,
) -> Floats:
    """With noise, inside the bin of the rating that was given."""
    edges = _edges(cuts)
    low, high = (ndtr((edges[level + k] - utility) / noise) for k in (0, 1))
    place = low + (high - low) * rng.random(len(level))
    return utility + noise * ndtri(np.clip(place, 1e-12, 1 - 1e-12))


def _draw_cuts(
    cuts: Floats,
    utility: Floats,
    noise: Floats,
    level: NDArray[np.integer],
    rng: np.random.Generator,
) -> Floats:
    """A normal around one Newton step of the likelihood, noise summed out: so they mix fast."""
    n_cuts, edges = len(cuts), _edges(cuts)
    low, high = ((edges[level + k] - utility) / noise for k in (0, 1))
    p_seen = np.maximum(ndtr(high) - ndtr(low), 1e-12)
    up, down = _density(high) / p_seen, -_density(low) / p_seen
    bend_up = -np.where(np.isfinite(high), high, 0.0) * up - up**2
    bend_down = -np.where(np.isfinite(low), low, 0.0) * down - down**2

    def at_cuts(above: Floats, below: Floats) -> Floats:
        """Sums over the ratings below each cut, and over those above it."""
        counted = [np.bincount(level, part, minlength=n_cuts + 1) for part in (above, below)]
        return (counted[0][:-1] + counted[1][1:]).astype(np.float64)

    slope = at_cuts(up / noise, down / noise)
    bend = at_cuts(bend_up / noise**2, bend_down / noise**2)
    beside = np.bincount(level, -up * down / noise**2, minlength=n_cuts + 1)[1:-1]
    curvature = -np.diag(bend)
    curvature[np.arange(n_cuts - 1), np.arange(1, n_cuts)] -= beside
    curvature[np.arange(1, n_cuts), np.arange(n_cuts - 1)] -= beside
    # Cuts around a level that hardly occurs have next to no hold: they are moved by one at most.
    hold, directions = np.linalg.eigh(curvature)
    hold = np.maximum(hold, 1.0)
    move = directions @ (
        (directions.T @ slope) / hold + rng.standard_normal(n_cuts) / np.sqrt(hold)
    )
    return _increasing(cuts + np.clip(move, -1.0, 1.0))


def _density(x: Floats) -> Floats:
    return np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)


def _increasing(cuts: Floats) -> Floats:
    """The same cuts in order, none equal to the one before."""
    return np.sort(cuts) + 1e-9 * np.arange(len(cuts), dtype=np.float64)
