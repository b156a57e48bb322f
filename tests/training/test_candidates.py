"""Candidates: what the sources propose, how many each brings, how lists are labelled."""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, inner_split
from candidfeed.data.tables import Dataset
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.retrieval.merge import SOURCES
from candidfeed.retrieval.validation import Asked
from candidfeed.training.candidates import (
    Sources,
    all_from_tower,
    best_unseen,
    candidate_lists,
    choose_quotas,
    touched_by,
    trending_of,
)
from candidfeed.training.scorers import TwoStageScorer
from candidfeed.training.two_stage import TwoStage

SEED = 7


def test_the_best_unseen_stand_first_and_padding_last() -> None:
    nothing = np.full(3, np.nan)
    known = Interactions(
        np.array([0, 0, 1], np.int32), np.array([3, 1, 0], np.int32),
        nothing.astype(np.float32), nothing, 3, 4,
    )  # fmt: skip
    scores = np.array([[0.1, 9, 0.4, 8], [7, 3, 1, 2], [1, 2, 3, 4]], np.float32)
    before = scores.copy()
    asked = np.array([0, 1, 2], np.int32)
    assert best_unseen(scores, known.matrix, asked, 3).tolist() == [[2, 0, 4], [1, 3, 2], [3, 2, 1]]
    assert best_unseen(scores, known.matrix, asked, 99).tolist() == [
        [2, 0, 4, 4], [1, 3, 2, 4], [3, 2, 1, 0],
    ]  # fmt: skip
    np.testing.assert_array_equal(scores, before)


def test_whether_a_user_touched_an_item_is_asked_of_their_own_row_alone() -> None:
    touched = sp.csr_matrix(np.array([[1, 0, 1], [0, 0, 1]], np.float32))
    asked = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.int32)
    found = touched_by(touched, np.array([1, 0], np.int32), asked)
    assert found.tolist() == [[False, False, True, False], [True, False, True, False]]


def test_trends_are_what_most_people_touched_lately_or_ever_without_times() -> None:
    item = np.array([0, 0, 0, 1, 1, 2], np.int32)
    time_s = np.array([0.0, 1, 2, 99, 100, 98])
    log = Interactions(
        np.array([0, 1, 2, 0, 1, 0], np.int32), item, np.full(6, np.nan, np.float32), time_s, 3, 4
    )
    assert trending_of(log).tolist() == [1, 2, 0, 3]
    assert trending_of(replace(log, time_s=np.full(6, np.nan))).tolist() == [0, 1, 2, 3]


class Given:
    """Scores that are given: the same row for every user."""

    def __init__(self, scores: list[float]) -> None:
        self.row = np.array(scores, np.float32)

    def scores(self, users: np.ndarray) -> np.ndarray:
        return np.tile(self.row, (len(users), 1))


def handmade_sources() -> Sources:
    """Eight items: the tower likes 0 1 2 ..., the neighbours 7 6 5 ..., 4 is the trend."""
    neighbour: Any = Given([1, 2, 3, 4, 5, 6, 7, 8])
    known = sp.csr_matrix(np.array([[0, 0, 0, 0, 0, 0, 0, 1], [0] * 8], np.float32))
    trending = np.array([4, 0, 1, 2, 3, 5, 6, 7], np.int32)
    return Sources(Given([8, 7, 6, 5, 4, 3, 2, 1]), neighbour, trending, known)


def test_every_source_brings_its_quota_and_no_source_what_the_user_has_touched() -> None:
    quotas = {"tower": 2, "neighbours": 1, "trending": 1}
    found = handmade_sources().propose(np.array([0, 1], np.int32), quotas)
    assert found.items.tolist() == [[0, 1, 4, 6], [0, 1, 4, 7]]
    assert [[SOURCES[one] for one in row] for row in found.source] == [
        ["tower", "tower", "trending", "neighbours"]
    ] * 2
    assert found.tower.tolist() == [[8, 7, 4, 2], [8, 7, 4, 1]]
    assert found.neighbour.tolist() == [[1, 2, 5, 7], [1, 2, 5, 8]]


def test_the_quotas_that_find_most_are_chosen_and_the_towers_own_in_a_tie() -> None:
    sources = handmade_sources()
    nothing = np.full(2, np.nan)

    def asked(items: list[int]) -> Asked:
        target = Interactions(
            np.array([0, 1], np.int32), np.array(items, np.int32),
            nothing.astype(np.float32), nothing, 2, 8,
        )  # fmt: skip
        return Asked(target.take(np.arange(0)), target)

    assert choose_quotas(sources, asked([0, 1]), 5) == all_from_tower(5)
    chosen = choose_quotas(sources, asked([6, 7]), 5)
    assert chosen["neighbours"] > 0
    assert sum(chosen.values()) == 5
    none = replace(sources, neighbour=None)
    assert choose_quotas(none, asked([6, 7]), 5) == all_from_tower(5)
    assert choose_quotas(sources, asked([6, 7]), 99) == all_from_tower(8)


def test_lists_are_unseen_best_first_and_labelled_by_what_happened_next(
    split: Split, pair: TwoStage
) -> None:
    inner = inner_split(split, seed=SEED)
    lists = pair.lists
    known, target = inner.known.matrix.toarray(), inner.test.matrix.toarray()
    assert set(lists.user) <= set(inner.test.user)
    real = lists.items < len(split.items)
    users = np.broadcast_to(lists.user[:, None], lists.items.shape)
    assert not known[users[real], lists.items[real]].any()
    np.testing.assert_array_equal(lists.engaged[real], target[users[real], lists.items[real]])
    assert (lists.engaged[~real] == -1).all()
    assert (lists.engaged > 0).any(axis=1).all()
    tower = lists.dense[..., DENSE_FEATURES.index("tower_score")]
    for scores, is_real in zip(tower, real, strict=True):
        assert (np.diff(scores[is_real]) <= 0).all()


def test_lists_without_a_hit_teach_nothing_and_are_left_out(
    tiny: Dataset, split: Split, pair: TwoStage
) -> None:
    quotas = all_from_tower(10)
    lists = candidate_lists(split, pair.sources, pair.features, tiny.like_at, quotas, seed=1)
    proposed = TwoStageScorer(replace(pair, settings=replace(pair.settings, quotas=quotas)))
    users = np.unique(split.test.user).astype(np.int32)
    target = split.test.matrix.toarray()
    has_hit = [
        bool(target[user, row > 0].any())
        for user, row in zip(users, proposed.scores(users), strict=True)
    ]
    assert lists.user.tolist() == users[has_hit].tolist()
