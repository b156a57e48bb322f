"""The leading spectrum, against a whole singular value decomposition."""

import numpy as np
import pytest
import scipy.sparse as sp

from candidfeed.retrieval.spectrum import leading_spectrum

N_USERS, N_ITEMS = 50, 30


def two_tastes() -> np.ndarray:
    rng = np.random.default_rng(0)
    likes = (np.arange(N_USERS)[:, None] % 2) == (np.arange(N_ITEMS) % 2)
    return rng.random((N_USERS, N_ITEMS)) < np.where(likes, 0.5, 0.05)


def matrix_of(touched: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(touched.astype(np.float32))


def links_of(touched: np.ndarray) -> np.ndarray:
    of_user, of_item = (np.maximum(touched.sum(axis=axis), 1) for axis in (1, 0))
    return touched / np.sqrt(of_user[:, None] * of_item)


def test_strengths_and_directions_are_those_of_the_whole_decomposition() -> None:
    touched = two_tastes()
    _, strengths, directions = np.linalg.svd(links_of(touched), full_matrices=False)
    found = leading_spectrum(matrix_of(touched), 6)
    assert found.rank == 6
    np.testing.assert_allclose(found.strengths, strengths[:6], rtol=1e-4)
    assert found.strengths[0] == pytest.approx(1.0, abs=1e-5)
    space = directions[:6].T @ directions[:6]
    np.testing.assert_allclose(found.directions @ found.directions.T, space, atol=3e-3)


def test_tables_weigh_each_direction_by_its_strength() -> None:
    touched = two_tastes()
    touched[:, 3] = False  # an item that nobody touched
    left, right = leading_spectrum(matrix_of(touched), N_ITEMS - 1).tables(4)
    _, strengths, directions = np.linalg.svd(links_of(touched), full_matrices=False)
    scale = np.sqrt(np.maximum(touched.sum(axis=0), 1))
    whole = (directions[:4].T * strengths[:4]) @ directions[:4]
    np.testing.assert_allclose(left @ right.T, whole / scale[:, None] * scale, atol=1e-3)
    np.testing.assert_allclose([left[3], right[3]], 0.0, atol=1e-12)


def test_users_get_the_items_of_their_taste_first() -> None:
    touched = two_tastes()
    left, right = leading_spectrum(matrix_of(touched), 2).tables(2)
    scores = touched @ left @ right.T
    is_even_user, is_even_item = (np.arange(n) % 2 == 0 for n in (N_USERS, N_ITEMS))
    own, other = (scores[is_even_user][:, part].mean() for part in (is_even_item, ~is_even_item))
    assert own > 3 * other


def test_a_start_has_the_width_that_is_asked_for_and_a_mean_square_length_of_one() -> None:
    start = leading_spectrum(matrix_of(two_tastes()), 8).start(5)
    assert (start.shape, start.dtype) == ((N_ITEMS, 5), np.float32)
    assert np.square(start).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "touched",
    [np.ones((20, 9)), np.eye(9), np.ones((1, 9)), np.ones((9, 1)), np.zeros((4, 9))],
    ids=["all touched the same", "nothing in common", "one user", "one item", "no event"],
)
def test_what_the_links_do_not_hold_is_zero_and_never_nan(touched: np.ndarray) -> None:
    found = leading_spectrum(matrix_of(touched), 12)
    n_real = np.linalg.matrix_rank(touched)
    assert found.directions.shape == (touched.shape[1], 12)
    assert np.count_nonzero(found.strengths > 1e-3) == n_real
    for table in (*found.tables(12), found.start(12)):
        assert np.isfinite(table).all()
        assert not table[:, n_real:].any()
    left, right = found.tables(12)
    # Every strength is 1 or 0 here: the filter gives each history back.
    np.testing.assert_allclose(touched @ left @ right.T, touched, atol=1e-4)
