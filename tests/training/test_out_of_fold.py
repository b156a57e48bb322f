"""Lists out of fold: labelled by rows that nothing behind their features has seen."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.splits import Split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.ranking.training import CandidateLists
from candidfeed.retrieval.neighbours import Ease
from candidfeed.training import out_of_fold
from candidfeed.training.candidates import Sources, all_from_tower, candidate_lists
from candidfeed.training.out_of_fold import (
    least_gain_se,
    lists_to_learn,
    log_more_hits,
    may_fold,
    out_of_fold_lists,
)
from candidfeed.training.side_features import SideFeatures, side_features
from candidfeed.training.stage_one import Chosen, choose_stage_one
from candidfeed.training.two_stage import TwoStageSettings, fit_two_stage, refit_on_all

SEED = 5


@pytest.fixture(scope="module")
def at_random(tiny: Dataset) -> Split:
    return make_split(tiny, "random", seed=SEED)


@pytest.fixture(scope="module")
def features(tiny: Dataset, at_random: Split) -> SideFeatures:
    return side_features(tiny, at_random)


@pytest.fixture(scope="module")
def chosen(at_random: Split, features: SideFeatures, brief: TwoStageSettings) -> Chosen:
    return choose_stage_one(at_random, features, brief.stage_one, seed=SEED)


@pytest.fixture(scope="module")
def lists(at_random: Split, features: SideFeatures, chosen: Chosen) -> CandidateLists:
    inner = chosen.inner
    ease = Ease.fit(inner.train, known=inner.known, l2=100.0)
    return out_of_fold_lists(
        at_random, features, chosen, 4.0, all_from_tower(10), neighbour=ease, seed=SEED
    )


def test_hits_are_train_rows_and_no_pair_is_a_hit_twice(
    lists: CandidateLists, at_random: Split
) -> None:
    row, place = np.nonzero(lists.engaged > 0)
    pairs = list(zip(lists.user[row], lists.items[row, place], strict=True))
    assert len(pairs) == len(set(pairs)) > 0
    known = at_random.train.matrix
    assert all(known[user, item] for user, item in pairs)


def test_what_a_list_is_labelled_by_was_not_counted_in_its_features(
    lists: CandidateLists, at_random: Split
) -> None:
    n_users_of = np.bincount(at_random.train.matrix.indices, minlength=len(at_random.items))
    log_count = lists.dense[..., DENSE_FEATURES.index("log_count")]
    row, place = np.nonzero(lists.engaged > 0)
    item = lists.items[row, place]
    assert (log_count[row, place] <= np.log1p(n_users_of[item] - 1) + 1e-5).all()


def test_rows_split_at_random_are_folded_and_rows_split_by_time_or_item_are_not(
    at_random: Split, chosen: Chosen
) -> None:
    settings = chosen.settings
    assert may_fold(at_random, settings)
    assert not may_fold(at_random, replace(settings, is_large=True))
    for protocol in ("temporal", "per-user-last", "item-cold", "given"):
        later = replace(at_random, protocol=protocol)
        assert not may_fold(later, settings)
        assert least_gain_se(later, settings) > least_gain_se(at_random, settings)


def test_rows_split_by_time_are_learned_from_at_several_cuts_each_by_what_was_before(
    tiny: Dataset, brief: TwoStageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_fold, "_LEAST_ROLLING_EVENTS", 0)
    split = make_split(tiny, "temporal", seed=SEED)
    features = side_features(tiny, split)
    chosen = choose_stage_one(split, features, brief.stage_one, seed=SEED)
    inner = chosen.inner
    sources = Sources.of(chosen.tried().scorer(inner.known), None, inner)
    inner_lists = candidate_lists(inner, sources, features, 4.0, all_from_tower(10), seed=SEED)
    found = lists_to_learn(
        split, features, chosen, 4.0, all_from_tower(10),
        neighbour=None, inner_lists=inner_lists, seed=SEED,
    )  # fmt: skip
    np.testing.assert_array_equal(found.items[: len(inner_lists)], inner_lists.items)
    touched = split.train.matrix
    earlier = found.take(slice(len(inner_lists), None))
    assert len(earlier) > 0
    row, place = np.nonzero(earlier.engaged > 0)
    assert all(touched[user, item] for user, item in
               zip(earlier.user[row], earlier.items[row, place], strict=True))  # fmt: skip


def test_the_first_candidates_are_kept_of_the_lists_that_have_a_hit_among_them() -> None:
    engaged = np.array([[0, 1, 0], [0, 0, 1], [1, 0, -1]], np.float32)
    items = np.arange(9, dtype=np.int32).reshape(3, 3)
    lists = CandidateLists(np.arange(3, dtype=np.int32), items, items[..., None] * 1.0, engaged)
    first = lists.first(2)
    assert first.user.tolist() == [0, 2]
    assert first.items.tolist() == [[0, 1], [6, 7]]
    assert first.engaged.tolist() == [[0, 1], [1, 0]]
    assert first.dense.shape == (2, 2, 1)


def test_more_hits_are_the_log_of_the_ratio_of_hits_a_list() -> None:
    def of(*rows: list[float]) -> CandidateLists:
        engaged = np.array(rows, np.float32)
        user, items = np.arange(len(rows), dtype=np.int32), np.zeros(engaged.shape, np.int32)
        return CandidateLists(user, items, np.zeros((*engaged.shape, 1), np.float32), engaged)

    two, one, none = of([1, 1, 0], [1, 1, -1]), of([1, 0, 0]), of([0, 0, -1])
    assert log_more_hits(two, one) == pytest.approx(np.log(2))
    assert log_more_hits(one, two) == pytest.approx(-np.log(2))
    assert log_more_hits(two, none) == log_more_hits(none, two) == 0.0
    assert log_more_hits(two.joined(two), one) == pytest.approx(np.log(2))


def test_the_head_of_a_release_is_the_one_that_was_measured(
    tiny: Dataset, at_random: Split, brief: TwoStageSettings
) -> None:
    pair = fit_two_stage(tiny, at_random, settings=brief, seed=SEED)
    whole = refit_on_all(tiny, pair, seed=SEED)
    for one, same in zip(
        pair.ranker.model.engaged.get_weights(),
        whole.ranker.model.engaged.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, same)
