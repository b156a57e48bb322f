"""The closed forms: several factorisations, and EASE at a low rank."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.closed_forms import (
    ClosedFormSettings,
    fit_closed_forms,
    fit_members,
    low_rank_ease,
)
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.factorise import FactorSettings, factorise
from candidfeed.retrieval.neighbours import Ease
from candidfeed.retrieval.spectrum import leading_spectrum

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


def content_of(train: Interactions) -> Content:
    """Nothing is known of the items but which half they are of."""
    halves = (np.arange(train.n_items) % 2 + 1).astype(np.int32)[:, None]
    return Content.of(Bag(halves, np.ones_like(halves, np.float32)), train.item)


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


def test_fitted_parts_are_the_members_and_the_weighted_neighbours() -> None:
    train, factors = random_log(), FactorSettings(dim=5)
    settings = ClosedFormSettings(factors, 3, n_neighbour_dims=4, l2=20.0, neighbour_weight=2.0)
    closed = fit_closed_forms(train, content_of(train), settings, seed=SEED)
    left, right = low_rank_ease(train, l2=20.0, rank=4)
    np.testing.assert_array_equal(closed.items, fit_members(train, factors, 3, seed=SEED))
    np.testing.assert_array_equal(closed.neighbour_in, 2 * left)
    np.testing.assert_array_equal(closed.neighbour_out, right)
    alone = fit_closed_forms(train, content_of(train), ClosedFormSettings(factors), seed=SEED)
    assert alone.neighbour_in.shape == alone.neighbour_out.shape == (N_ITEMS, 0)


def test_a_spectral_settings_parts_are_the_filter_and_a_factorisation_begun_with_it() -> None:
    train, factors = random_log(), FactorSettings(dim=5, n_iterations=2)
    settings = ClosedFormSettings(
        factors, n_neighbour_dims=4, neighbour_weight=3.0, is_spectral=True
    )
    closed = fit_closed_forms(train, content_of(train), settings, seed=SEED)
    spectrum = leading_spectrum(train.matrix, 5)
    left, right = spectrum.tables(4)
    np.testing.assert_array_equal(closed.neighbour_in, 3 * left)
    np.testing.assert_array_equal(closed.neighbour_out, right)
    rng = np.random.default_rng(SEED)
    begun = factorise(train.matrix, factors, rng=rng, start=spectrum.start(5))
    np.testing.assert_array_equal(closed.items, begun[None])
    alone = replace(settings, n_neighbour_dims=0)
    assert fit_closed_forms(train, content_of(train), alone, seed=SEED).neighbour_in.size == 0


def test_members_differ_and_the_first_ones_do_not_depend_on_how_many_there_are() -> None:
    train, factors = random_log(), FactorSettings(dim=5)
    four = fit_members(train, factors, 4, seed=SEED)
    assert four.shape == (4, N_ITEMS, 5)
    np.testing.assert_array_equal(fit_members(train, factors, 2, seed=SEED), four[:2])
    scores = [items @ items.T for items in four]
    assert all(np.abs(scores[0] - other).max() > 1e-3 for other in scores[1:])
    assert (fit_members(train, factors, 1, seed=SEED + 1) != four[:1]).any()


def test_one_who_is_asked_for_is_regularised_on_their_own() -> None:
    settings = ClosedFormSettings(FactorSettings(dim=3, reg=0.01), asked_reg=0.05)
    assert settings.asked == FactorSettings(dim=3, reg=0.05)


def test_an_item_that_nobody_touched_is_found_by_its_content_in_every_part() -> None:
    touched = random_log().matrix.toarray()
    touched[:, 8] = 0
    train = log_of(touched)
    settings = ClosedFormSettings(
        FactorSettings(dim=4), 2, n_neighbour_dims=4, l2=20.0, new_item_weight=1.0
    )
    closed = fit_closed_forms(train, content_of(train), settings, seed=SEED)
    alike = touched.any(axis=0) & (np.arange(N_ITEMS) % 2 == 0)
    for vectors in (*closed.items, closed.neighbour_out):
        expected = vectors[alike].mean(axis=0)
        assert np.linalg.norm(vectors[8] - expected) < 0.5 * np.linalg.norm(expected)
