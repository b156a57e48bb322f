"""LightGBM over candidate lists: what it learns, and what it never sees."""

import numpy as np
import pytest
from numpy.typing import NDArray

from candidfeed.reference.boosted_trees import OBJECTIVES, fit_boosted_trees

Floats = NDArray[np.float32]
NAMES = ("noise", "taste")
N_LISTS, N_CANDIDATES = 60, 50


def lists(seed: int = 0) -> tuple[Floats, Floats]:
    """Candidates are engaged with where their second feature is among the list's five highest."""
    dense = np.random.default_rng(seed).normal(size=(N_LISTS, N_CANDIDATES, 2)).astype(np.float32)
    fifth = np.sort(dense[..., 1], axis=1)[:, -5, None]
    return dense, (dense[..., 1] >= fifth).astype(np.float32)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_lists_that_were_not_learned_are_ordered_by_the_feature_that_decides(
    objective: str,
) -> None:
    trees = fit_boosted_trees(*lists(), names=NAMES, objective=objective, seed=0)
    dense, engaged = lists(seed=1)
    scores = trees.scores(dense)
    assert scores.shape == engaged.shape
    best = np.argsort(-scores, axis=1)[:, :5]
    assert np.take_along_axis(engaged, best, axis=1).mean() > 0.9


def test_padding_is_no_row_to_learn_from() -> None:
    dense, engaged = lists()
    wide = np.full((N_LISTS, N_CANDIDATES + 7, 2), 99.0, np.float32)
    wide[:, :N_CANDIDATES] = dense
    trees = fit_boosted_trees(
        wide, np.pad(engaged, ((0, 0), (0, 7)), constant_values=-1),
        names=NAMES, objective="lgbm-binary", seed=0,
    )  # fmt: skip
    nodes = trees.booster.trees_to_dataframe()
    assert nodes.query("node_depth == 1")["count"].max() <= N_LISTS * N_CANDIDATES
    assert nodes["threshold"].max() < 99.0


def test_the_order_in_which_candidates_come_is_nothing_to_learn_by() -> None:
    """All features alike: a list that comes best first must not look well ordered."""
    _, engaged = lists()
    alike = np.zeros((N_LISTS, N_CANDIDATES, 2), np.float32)
    best_first = -np.sort(-engaged, axis=1)
    trees = fit_boosted_trees(alike, best_first, names=NAMES, objective="lambdamart", seed=0)
    assert trees.settings["held_out_ndcg@10"] < 0.3


def test_one_seed_gives_one_model() -> None:
    dense, engaged = lists()
    first, second = (
        fit_boosted_trees(dense, engaged, names=NAMES, objective="lambdamart", seed=3)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.scores(dense), second.scores(dense))
    assert first.settings == second.settings
