"""iALS in closed form, against a dense solution of its normal equations."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from candidfeed.retrieval import factorise as module
from candidfeed.retrieval.factorise import FactorSettings, factorise, fold_in

SMALL = FactorSettings(dim=4, unseen_weight=0.2, reg=0.05, n_iterations=3)


def matrix_of(dense: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(dense.astype(np.float32))


def random_matrix(n_users: int, n_items: int, *, share: float = 0.3) -> sp.csr_matrix:
    return matrix_of(np.random.default_rng(1).random((n_users, n_items)) < share)


def solve_dense(seen: np.ndarray, vectors: np.ndarray, settings: FactorSettings) -> np.ndarray:
    """Each row by itself in float64: weight a + 1 where seen, a elsewhere."""
    vectors = vectors.astype(np.float64)
    rows = []
    for row in seen:
        weights = settings.unseen_weight + row
        ridge = settings.reg * (row.sum() + settings.unseen_weight * len(vectors))
        left = vectors.T @ (weights[:, None] * vectors) + ridge * np.eye(settings.dim)
        rows.append(np.linalg.solve(left, vectors.T @ row))
    return np.array(rows)


def objective(
    seen: np.ndarray, users: np.ndarray, items: np.ndarray, settings: FactorSettings
) -> float:
    """Rendle et al., eq. 5 to 7 with exponent 1, in float64."""
    users, items = users.astype(np.float64), items.astype(np.float64)
    scores = users @ items.T
    n_users, n_items = seen.shape
    of_user = seen.sum(axis=1) + settings.unseen_weight * n_items
    of_item = seen.sum(axis=0) + settings.unseen_weight * n_users
    fit = (seen * (scores - 1) ** 2).sum() + settings.unseen_weight * (scores**2).sum()
    ridge = (of_user * (users**2).sum(axis=1)).sum() + (of_item * (items**2).sum(axis=1)).sum()
    return float(fit + settings.reg * ridge)


@pytest.mark.parametrize("dim", [1, 4, 30])
@pytest.mark.parametrize("unseen_weight", [0.01, 1.0])
def test_folding_in_solves_the_normal_equations(dim: int, unseen_weight: float) -> None:
    settings = replace(SMALL, dim=dim, unseen_weight=unseen_weight)
    matrix = random_matrix(40, 20)
    vectors = np.random.default_rng(2).standard_normal((20, dim)).astype(np.float32)
    expected = solve_dense(matrix.toarray(), vectors, settings)
    found = fold_in(matrix, vectors, settings)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(("dim", "share"), [(80, 0.8), (200, 0.8)])
def test_many_unknowns_are_solved_by_steps_to_the_same(dim: int, share: float) -> None:
    settings = replace(SMALL, dim=dim)
    matrix = random_matrix(30, 120, share=share)
    assert min(np.diff(matrix.indptr).min(), dim) > module._MAX_EXACT
    vectors = np.random.default_rng(2).standard_normal((120, dim)).astype(np.float32)
    expected = solve_dense(matrix.toarray(), vectors, settings)
    found = fold_in(matrix, vectors, settings)
    np.testing.assert_allclose(found @ vectors.T, expected @ vectors.T, atol=0.02)


def test_a_factorisation_begins_with_the_vectors_that_it_is_given() -> None:
    matrix = random_matrix(30, 12)
    start = np.random.default_rng(5).standard_normal((12, 4)).astype(np.float32)
    begun = factorise(
        matrix, replace(SMALL, n_iterations=1), rng=np.random.default_rng(0), start=start
    )
    users = fold_in(matrix, start, SMALL)
    np.testing.assert_array_equal(begun, fold_in(matrix.T.tocsr(), users, SMALL))


def test_all_alternations_are_those_of_the_dense_solution() -> None:
    matrix = random_matrix(30, 12)
    items = np.random.default_rng(7).standard_normal((12, 4)) * (0.1 / np.sqrt(4))
    seen = matrix.toarray()
    for _ in range(SMALL.n_iterations):
        users = solve_dense(seen, items, SMALL)
        items = solve_dense(seen.T, users, SMALL)
    found = factorise(matrix, SMALL, rng=np.random.default_rng(7))
    np.testing.assert_allclose(found, items, rtol=2e-3, atol=2e-5)


def test_the_objective_falls_with_every_half_step() -> None:
    matrix = random_matrix(30, 12)
    seen, by_item = matrix.toarray(), matrix.T.tocsr()
    items = np.random.default_rng(3).standard_normal((12, 4)).astype(np.float32)
    users = np.zeros((30, 4), np.float32)
    losses = [objective(seen, users, items, SMALL)]
    for _ in range(4):
        users = fold_in(matrix, items, SMALL)
        losses.append(objective(seen, users, items, SMALL))
        items = fold_in(by_item, users, SMALL)
        losses.append(objective(seen, users, items, SMALL))
    assert (np.diff(losses) < 0).all()
    more = [
        factorise(matrix, replace(SMALL, n_iterations=n), rng=np.random.default_rng(3))
        for n in (1, 2, 4, 8)
    ]
    reached = [objective(seen, fold_in(matrix, each, SMALL), each, SMALL) for each in more]
    assert (np.diff(reached) < 0).all()


def test_a_row_without_events_gets_zeros() -> None:
    seen = np.zeros((3, 5))
    seen[1, 2] = 1
    vectors = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    found = fold_in(matrix_of(seen), vectors, SMALL)
    assert (found[[0, 2]] == 0).all()
    assert (found[1] != 0).all()


def test_an_item_that_nobody_touched_gets_zeros() -> None:
    seen = random_matrix(20, 6, share=0.5).toarray()
    seen[:, 4] = 0
    items = factorise(matrix_of(seen), SMALL, rng=np.random.default_rng(0))
    assert (items[4] == 0).all()
    assert (np.delete(items, 4, axis=0) != 0).any(axis=1).all()


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others() -> None:
    matrix = random_matrix(30, 12)
    first, same, other = (
        factorise(matrix, SMALL, rng=np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_a_row_gets_the_same_vector_alone_in_another_order_and_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = random_matrix(33, 12)
    vectors = np.random.default_rng(2).standard_normal((12, 4)).astype(np.float32)
    together = fold_in(matrix, vectors, SMALL)
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(fold_in(matrix[::-1], vectors, SMALL), together[::-1], **close)
    for row in (0, 17, 32):
        np.testing.assert_allclose(fold_in(matrix[row], vectors, SMALL)[0], together[row], **close)
    monkeypatch.setattr(module, "_BLOCK_FLOATS", 64)
    np.testing.assert_allclose(fold_in(matrix, vectors, SMALL), together, **close)


@pytest.mark.parametrize("dim", [2, 40])
def test_a_row_solves_its_ridge_regression_whatever_is_fewer_events_or_dimensions(dim: int) -> None:
    settings = FactorSettings(dim=dim, unseen_weight=0.2, reg=0.05)
    matrix = random_matrix(9, 15)
    vectors = np.random.default_rng(3).standard_normal((15, dim))
    found = fold_in(matrix, vectors.astype(np.float32), settings)
    for row in range(9):
        seen = matrix[row].toarray()[0] > 0
        ridge = settings.reg * (seen.sum() + settings.unseen_weight * 15)
        left = vectors[seen].T @ vectors[seen] + 0.2 * vectors.T @ vectors + ridge * np.eye(dim)
        expected = np.linalg.solve(left, vectors[seen].sum(axis=0))
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 5), (5, 1), (1, 1), (6, 3)])
@pytest.mark.parametrize("dim", [1, 4, 16])
def test_more_dimensions_than_items_or_users_are_no_trouble(
    n_users: int, n_items: int, dim: int
) -> None:
    seen = np.ones((n_users, n_items))
    items = factorise(matrix_of(seen), replace(SMALL, dim=dim), rng=np.random.default_rng(0))
    assert items.shape == (n_items, dim)
    assert np.isfinite(items).all()


def test_one_user_and_one_item_reach_the_value_of_the_formula() -> None:
    # Where both vectors are x and scores x^2, the loss is (x^2 - 1)^2 + a x^4 + 2 r (1 + a) x^2,
    # whose least value lies at x^2 = (1 - r (1 + a)) / (1 + a).
    settings = FactorSettings(dim=1, unseen_weight=0.2, reg=0.05, n_iterations=200)
    matrix = matrix_of(np.ones((1, 1)))
    items = factorise(matrix, settings, rng=np.random.default_rng(0))
    score = fold_in(matrix, items, settings) @ items.T
    np.testing.assert_allclose(score, (1 - 0.05 * 1.2) / 1.2, rtol=1e-4)


def test_no_rows_give_no_vectors() -> None:
    vectors = np.ones((5, 4), np.float32)
    assert fold_in(sp.csr_matrix((0, 5), dtype=np.float32), vectors, SMALL).shape == (0, 4)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"unseen_weight": 0.0}, {"reg": 0.0}, {"reg": -1.0}])
def test_settings_without_a_unique_solution_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="each setting must be above 0"):
        FactorSettings(**wrong)
