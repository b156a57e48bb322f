"""The closed forms: EASE at a low rank, and the choice of what to start from."""

import numpy as np
import pytest

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval import closed_forms as module
from candidfeed.retrieval.closed_forms import (
    ClosedFormSettings,
    Scores,
    choose_closed_forms,
    fit_closed_forms,
    low_rank_ease,
)
from candidfeed.retrieval.factorise import FactorSettings, factorise, fold_in
from candidfeed.retrieval.neighbours import Ease

N_USERS, N_ITEMS = 60, 40
SEED = 3


def log_of(touched: np.ndarray) -> Interactions:
    user, item = np.nonzero(touched)
    nothing = np.full(len(user), np.nan)
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), nothing.astype(np.float32), nothing,
        *touched.shape,
    )  # fmt: skip


def random_log(n_items: int = N_ITEMS) -> Interactions:
    return log_of(np.random.default_rng(1).random((N_USERS, n_items)) < 0.2)


EVERYONE = np.arange(N_USERS, dtype=np.int32)


def distance_to(wanted: np.ndarray, tried: list[float]):
    """A measure that is the higher the closer scores are to `wanted`; it keeps what it gave."""

    def ndcg(scores: Scores) -> float:
        tried.append(-float(np.abs(scores(EVERYONE) - wanted).mean()))
        return tried[-1]

    return ndcg


def scores_of(train: Interactions, settings: ClosedFormSettings) -> np.ndarray:
    closed = fit_closed_forms(train, settings, seed=SEED)
    folded = fold_in(train.matrix, closed.items, settings.factors) @ closed.items.T
    return folded + (train.matrix @ closed.neighbour_in) @ closed.neighbour_out.T


def test_ease_cut_to_its_own_rank_is_ease() -> None:
    touched = random_log().matrix.toarray()
    touched[:, 7] = 0  # an item that nobody touched: EASE's weights have one rank less than items
    train = log_of(touched)
    left, right = low_rank_ease(train, l2=5.0, rank=N_ITEMS - 1)
    weights = Ease.fit(train, known=train, l2=5.0).weights
    assert (left.dtype, right.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(left @ right.T, weights, atol=1e-5)


def test_a_low_rank_is_the_best_approximation_and_repeatable() -> None:
    train = random_log()
    left, right = low_rank_ease(train, l2=5.0, rank=6)
    weights = Ease.fit(train, known=train, l2=5.0).weights
    lost = np.linalg.svd(weights.astype(np.float64), compute_uv=False)[6:]
    assert np.linalg.norm(weights - left @ right.T) == pytest.approx(np.linalg.norm(lost), rel=1e-4)
    again = low_rank_ease(train, l2=5.0, rank=6)
    np.testing.assert_array_equal(left, again[0])
    np.testing.assert_array_equal(right, again[1])


def test_where_no_two_items_share_a_user_the_neighbour_part_is_zero() -> None:
    left, right = low_rank_ease(log_of(np.eye(40)), l2=300.0, rank=20)
    assert left.shape == right.shape == (40, 20)
    assert not left.any()
    assert not right.any()


def test_fitted_parts_are_the_factors_and_the_weighted_neighbours() -> None:
    train, factors = random_log(), FactorSettings(dim=5)
    settings = ClosedFormSettings(factors, n_neighbour_dims=4, l2=20.0, neighbour_weight=2.0)
    closed = fit_closed_forms(train, settings, seed=SEED)
    left, right = low_rank_ease(train, l2=20.0, rank=4)
    own = factorise(train.matrix, factors, rng=np.random.default_rng(SEED))
    np.testing.assert_array_equal(closed.items, own)
    np.testing.assert_array_equal(closed.neighbour_in, 2 * left)
    np.testing.assert_array_equal(closed.neighbour_out, right)
    alone = fit_closed_forms(train, ClosedFormSettings(factors), seed=SEED)
    assert alone.neighbour_in.shape == alone.neighbour_out.shape == (N_ITEMS, 0)


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize(("l2", "weight"), [(300.0, 0.5), (3000.0, 2.0)])
def test_the_choice_is_the_best_of_the_grid_by_the_given_measure(
    place: int, l2: float, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHOOSING_ITERATIONS", FactorSettings().n_iterations)
    train = random_log()
    rank = N_ITEMS // 2
    each = module._FACTORS[place]
    factors = FactorSettings(rank, each.unseen_weight, each.reg)
    wanted = ClosedFormSettings(factors, n_neighbour_dims=rank, l2=l2, neighbour_weight=weight)
    tried: list[float] = []
    chosen = choose_closed_forms(
        train, train.matrix, distance_to(scores_of(train, wanted), tried), seed=SEED
    )
    assert chosen == wanted
    assert max(tried) > -1e-5


def test_neighbours_are_left_out_where_they_do_not_help() -> None:
    train = random_log()
    factors = FactorSettings(20, 0.1, 0.03)
    alone = scores_of(train, ClosedFormSettings(factors))
    chosen = choose_closed_forms(train, train.matrix, distance_to(alone, []), seed=SEED)
    assert chosen.n_neighbour_dims == 0
    equal = choose_closed_forms(train, train.matrix, lambda _scores: 0.5, seed=SEED)
    assert equal == ClosedFormSettings(factors)


def test_above_a_limit_of_items_no_neighbours_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    train = random_log()
    monkeypatch.setattr(module, "MAX_NEIGHBOUR_ITEMS", N_ITEMS - 1)
    monkeypatch.delattr(module, "low_rank_ease")
    rising = iter(range(100))
    chosen = choose_closed_forms(train, train.matrix, lambda _scores: next(rising), seed=SEED)
    assert chosen.n_neighbour_dims == 0
    # The last that was tried: so small a log has no wider ones.
    assert chosen.factors == FactorSettings(20, 1.0, 0.003)


@pytest.mark.parametrize("n_items", [2, 3, 5, 33])
def test_tiny_catalogues_get_settings_that_can_be_fitted(n_items: int) -> None:
    train = random_log(n_items)
    chosen = choose_closed_forms(train, train.matrix, lambda _scores: 0.5, seed=SEED)
    assert 1 <= chosen.factors.dim <= max(1, n_items // 2)
    closed = fit_closed_forms(train, chosen, seed=SEED)
    assert closed.items.shape == (n_items, chosen.factors.dim)
    assert np.isfinite(closed.items).all()
