"""What calibrators are fitted on: rows that the ranker did not learn from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from candidfeed.data.splits import Split, fold_splits, make_split
from candidfeed.data.tables import Dataset
from candidfeed.ranking.training import CandidateLists
from candidfeed.training import held_out
from candidfeed.training.held_out import (
    HeldOut,
    calibrators,
    engagement_of,
    likes_of,
    likes_of_cuts,
    likes_of_history,
)
from candidfeed.training.predictions import p_like, rating_levels
from candidfeed.training.two_stage import TwoStage
from candidfeed.training.value import ENGAGED, LIKED


@pytest.fixture(scope="module")
def pair(tiny_parts: dict[str, Any]) -> TwoStage:
    """The measured pair of the tiny build; its protocol has a history."""
    return tiny_parts["evaluate_once"].pair


@pytest.fixture(scope="module")
def split(pair: TwoStage) -> Split:
    return pair.split


def test_likes_are_asked_row_by_row_with_what_came_of_them(pair: TwoStage, split: Split) -> None:
    found = likes_of(pair.ranker, pair.states, split.test, 4.0)
    np.testing.assert_array_equal(found.user, split.test.user)
    np.testing.assert_array_equal(found.happened, split.test.value >= 4)
    levels = rating_levels(pair.ranker, pair.states, split.test)
    np.testing.assert_array_equal(found.p, p_like(pair.ranker, levels))


def test_engagement_is_asked_of_real_candidates_only(pair: TwoStage) -> None:
    lists = pair.lists
    padded = CandidateLists(
        lists.user,
        np.where(np.arange(20) < 15, lists.items, pair.ranker.space.n_items).astype(np.int32),
        lists.dense,
        np.where(np.arange(20) < 15, lists.engaged, -1).astype(np.float32),
    )
    found = engagement_of(pair.ranker, padded)
    whole = engagement_of(pair.ranker, lists)
    assert len(found.p) == 15 * len(lists)
    assert found.happened.sum() == (lists.engaged[:, :15] > 0).sum()
    np.testing.assert_allclose(found.p, whole.p.reshape(len(lists), 20)[:, :15].ravel())
    np.testing.assert_array_equal(found.user, np.repeat(lists.user, 15))


def test_of_many_lists_some_are_asked(pair: TwoStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MAX_LISTS", 5)
    found = engagement_of(pair.ranker, pair.lists)
    assert 1 < len(np.unique(found.user)) <= 5


def test_without_lists_nothing_is_held_out(pair: TwoStage) -> None:
    nothing = CandidateLists(*(getattr(pair.lists, name)[:0] for name in
                               ("user", "items", "dense", "engaged")))  # fmt: skip
    assert len(engagement_of(pair.ranker, nothing).p) == 0


def test_a_row_of_history_is_asked_while_it_is_not_known(
    pair: TwoStage, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "MIN_HISTORY_ROWS", 1)
    asked: list[tuple[set, set]] = []

    def watch(_ranker: Any, states: Any, rows: Any, like_at: float) -> HeldOut:
        users = np.unique(rows.user)
        past = states.histories.padded(users, width=states.width)
        known = {(int(u), int(i)) for u, row in zip(users, past.items, strict=True) for i in row}
        asked.append((known, set(zip(rows.user.tolist(), rows.item.tolist(), strict=True))))
        return HeldOut(rows.user, np.full(len(rows), 0.5), rows.value >= like_at)

    monkeypatch.setattr(held_out, "likes_of", watch)
    found = likes_of_history(split, pair.ranker, pair.features, 4.0, seed=1)
    assert found is not None
    assert len(found.p) == len(split.history) > 0
    everything = set().union(*(rows for _, rows in asked))
    expected = zip(split.history.user.tolist(), split.history.item.tolist(), strict=True)
    assert everything == set(expected)
    for known, rows in asked:
        assert not known & rows


def test_too_little_history_is_none(pair: TwoStage, split: Split) -> None:
    assert len(split.history) < held_out.MIN_HISTORY_ROWS
    assert likes_of_history(split, pair.ranker, pair.features, 4.0, seed=1) is None


def test_each_cuts_ranker_does_not_learn_the_ratings_that_it_is_asked(
    tiny: Dataset, pair: TwoStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_split(tiny, "random", seed=3)
    cuts = list(fold_splits(whole, n_folds=3, seed=3))
    learned: list[int] = []

    def watch(_space: Any, **given: Any) -> Any:
        assert given["lists"] is None
        learned.append(len(given["rated"]))
        return pair.ranker

    monkeypatch.setattr(held_out, "fit_ranker", watch)
    settings = pair.settings.ranker
    found = likes_of_cuts(cuts, pair.features, 4.0, settings=settings, seed=3)
    assert learned == [len(cut.train) for cut in cuts]
    asked = np.concatenate([cut.test.user for cut in cuts])
    np.testing.assert_array_equal(np.sort(found.user), np.sort(asked))
    assert found.happened.sum() == sum((cut.test.value >= 4).sum() for cut in cuts)


def test_no_more_cuts_are_learned_from_than_it_takes_for_the_rows(
    tiny: Dataset, pair: TwoStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = list(fold_splits(make_split(tiny, "random", seed=3), n_folds=3, seed=3))
    monkeypatch.setattr(held_out, "fit_ranker", lambda _space, **_given: pair.ranker)
    monkeypatch.setattr(held_out, "MAX_ROWS", len(cuts[0].test))
    settings = pair.settings.ranker
    found = likes_of_cuts(cuts, pair.features, 4.0, settings=settings, seed=3)
    assert len(found) == len(cuts[0].test)


def test_of_very_many_ratings_some_users_are_learned_from(split: Split) -> None:
    rated = replace(split.train, value=np.ones(len(split.train), np.float32))
    some = held_out._of_some_users(rated, len(rated) // 3, np.random.default_rng(0))
    assert 0 < len(some) < len(rated)
    n_of_user = np.bincount(rated.user, minlength=rated.n_users)
    kept = np.unique(some.user)
    np.testing.assert_array_equal(np.bincount(some.user, minlength=rated.n_users)[kept],
                                  n_of_user[kept])  # fmt: skip


def test_a_head_without_rows_is_left_as_it_is() -> None:
    found = calibrators({})
    assert found.keys() == {ENGAGED, LIKED}
    assert {one.why for one in found.values()} == {"no held-out rows"}


def test_the_release_is_calibrated_by_what_the_measured_pair_said_of_the_test_rows(
    pair: TwoStage, tiny_whole: TwoStage, tiny_served: Any
) -> None:
    assert tiny_whole.calibration[LIKED].n_rows == len(pair.split.test)
    for head, one in tiny_whole.calibration.items():
        served = tiny_served.calibration[head]
        assert served.to_json() == one.to_json()
