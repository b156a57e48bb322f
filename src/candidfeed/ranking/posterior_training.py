"""From rated rows and users' states to draws of the posterior, and to what stands for new users."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import chronological
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import RankerSpace
from candidfeed.ranking.posterior import Draws, FoldIn, Ratings, draw_posterior
from candidfeed.ranking.posterior_head import PosteriorHead
from candidfeed.ranking.posterior_sides import known_columns
from candidfeed.ranking.rating_scale import nearest_level
from candidfeed.ranking.user_state import UserStates

# A sweep over 80,000 ratings takes about 35 ms of processor, and grows with them.
MAX_RATINGS = 300_000
# The smaller side's Gram matrix is taken apart, and users and items each have a row for every draw.
MAX_SMALLER_SIDE, MAX_ROWS = 2_500, 10_000
# A feature of fewer rows says nothing that the rows do not say of themselves: with the words of
# MovieLens-100K's titles MSE is .7938, without .7916 (validation).
_LEAST_SHARE = 0.01
_MAX_FEATURES = 500
_FOLD_IN_STRENGTH = 3.0
_USERS_AT_ONCE = 1_024


def pays(rated: Interactions | None) -> bool:
    """Whether there are ratings, and few enough users, items and ratings."""
    if rated is None or not 0 < len(rated) <= MAX_RATINGS:
        return False
    smaller, larger = sorted((rated.n_users, rated.n_items))
    return smaller <= MAX_SMALLER_SIDE and larger <= MAX_ROWS


@dataclass(frozen=True)
class Posterior:
    """What `PosteriorHead.take` is given; see there."""

    draws: Draws
    feature_links: NDArray[np.float32]
    unknown: FoldIn
    learned_from: NDArray[np.bool_]

    def fill(self, head: PosteriorHead) -> None:
        head.take(self.draws, self.feature_links, self.unknown, self.learned_from)


def posterior_of(
    space: RankerSpace,
    rated: Interactions,
    states: UserStates,
    *,
    n_user_ids: int,
    n_draws: int,
    dim: int,
    seed: int,
) -> Posterior:
    """Draws from these ratings, and what stands for users who have none."""
    # A pair that is rated twice counts as it was rated last.
    rated = chronological(rated)
    level = nearest_level(rated.value, space.scale.levels)
    ratings = Ratings(rated.user, rated.item, level, n_levels=len(space.scale.levels))
    touched = touched_items(states)
    user_features, user_ids = _features(states.bag, n_user_ids)
    item_features, _ = _features(space.item_bag, space.n_item_ids)
    draws = draw_posterior(
        ratings,
        user_groups=[_scaled(touched), user_features],
        item_groups=[_scaled(touched.T.tocsr()), item_features],
        n_draws=n_draws,
        dim=dim,
        seed=seed,
    )
    learned_from = np.bincount(rated.user, minlength=rated.n_users) > 0
    links = np.zeros((len(draws), n_user_ids, dim + 1), np.float32)
    links[:, user_ids] = draws.user_links[1]
    return Posterior(draws, links, fold_in(draws, space, states, learned_from), learned_from)


def fold_in(
    draws: Draws, space: RankerSpace, states: UserStates, learned_from: NDArray[np.bool_]
) -> FoldIn:
    """What a user's ratings lead to expect of the row that they would have, by ridge regression.

    Args:
        learned_from: whose ratings the draws come from, bool [n_users].
    """
    rows = np.flatnonzero(learned_from)
    tones, user_tone = _tones(states, rows, mean=space.scale.mean)
    own = draws.users[:, rows].astype(np.float64)
    gain = (own[:, :, -1] @ user_tone) / max(float(user_tone @ user_tone), 1e-6)
    own[:, :, -1] -= gain[:, None] * user_tone
    n_draws, n, width = own.shape
    side_by_side = own.transpose(1, 0, 2).reshape(n, n_draws * width)
    links = known_columns(tones).ridge(side_by_side, _FOLD_IN_STRENGTH)
    links = links.reshape(-1, n_draws, width).transpose(1, 0, 2)
    return FoldIn(gain.astype(np.float32), links.astype(np.float32))


def touched_items(states: UserStates) -> sp.csr_matrix:
    """Who touched what, as far as their histories tell: ones in CSR [n_users, n_items]."""
    histories = states.histories
    parts = (np.ones(len(histories.item)), histories.item, histories.starts)
    return sp.csr_matrix(parts, shape=(len(states), histories.n_items))


def _scaled(ones: sp.csr_matrix) -> sp.csr_matrix:
    """Each row over the root of its length."""
    lengths = np.maximum(np.diff(ones.indptr), 1)
    return sp.csr_matrix(sp.diags(1.0 / np.sqrt(lengths)) @ ones)


def _features(bag: Bag, n_ids: int) -> tuple[sp.csr_matrix, NDArray[np.intp]]:
    """The features that enough rows have, CSR [n, width], and their ids; padding is the first."""
    rows, places = np.nonzero(bag.weights)
    ids = bag.ids[rows, places]
    parts = (bag.weights[rows, places].astype(np.float64), (rows, ids))
    columns = sp.csr_matrix(parts, shape=(len(bag), n_ids))
    counts = np.bincount(ids, minlength=n_ids)
    common = np.argsort(-counts, kind="stable")[:_MAX_FEATURES]
    common = common[counts[common] >= max(1.0, _LEAST_SHARE * len(bag))]
    # Padding stands in no row: with it there is a column even where nothing is known.
    kept = np.append(0, np.sort(common[common > 0]))
    return columns[:, kept], kept


def _tones(
    states: UserStates, rows: NDArray[np.integer], *, mean: float
) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
    """Tones of these users' histories over the root of their length, and of the users as a whole.

    CSR [len(rows), n_items] and float64 [len(rows)].
    """
    touched, user_tone = touched_items(states)[rows], np.zeros(len(rows))
    tones = []
    for start in range(0, len(rows), _USERS_AT_ONCE):
        some = slice(start, start + _USERS_AT_ONCE)
        state = states.take(rows[some])
        user_tone[some] = state.mean_rating - np.float32(mean)
        tones.append(state.tone[state.history < states.histories.n_items])
    parts = (np.concatenate(tones).astype(np.float64), touched.indices, touched.indptr)
    return _scaled(sp.csr_matrix(parts, shape=touched.get_shape())), user_tone
