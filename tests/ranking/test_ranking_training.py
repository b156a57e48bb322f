"""Fitting the ranker: every rating once an epoch, every hit in its list, one user a list."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import DENSE_FEATURES, RankerSpace, UserStates
from candidfeed.ranking.training import (
    NO_LABEL,
    CandidateLists,
    FittedRanker,
    RankerBatches,
    RankerSettings,
    fit_ranker,
)

N_USERS, N_ITEMS, N_CANDIDATES = 7, 9, 8
SETTINGS = RankerSettings(
    features="retrieval", dim=3, members=2, n_epochs=2, list_length=4, lists_per_batch=3
)


def rated_log() -> Interactions:
    """User 0 rated all 9 items, user 6 nothing."""
    rng = np.random.default_rng(0)
    counts = [9, 1, 4, 5, 8, 3, 0]
    user = np.repeat(np.arange(N_USERS, dtype=np.int32), counts)
    item = np.concatenate([rng.permutation(N_ITEMS)[:n] for n in counts]).astype(np.int32)
    shuffled = rng.permutation(len(user))
    value = rng.integers(1, 6, len(user)).astype(np.float32)
    return Interactions(
        user[shuffled], item[shuffled], value, 1e9 + 1e5 * np.arange(len(user)), N_USERS, N_ITEMS
    )


LOG = rated_log()
ITEM_BAG = Bag(np.arange(N_ITEMS, dtype=np.int32)[:, None] % 3, np.ones((N_ITEMS, 1), np.float32))
USER_BAG = Bag(np.ones((N_USERS, 1), np.int32), np.ones((N_USERS, 1), np.float32))


def space_of(*, like_at: float | None = 4.0) -> RankerSpace:
    return RankerSpace.fit(LOG, ITEM_BAG, 3, like_at)


def states_in(space: RankerSpace) -> UserStates:
    return UserStates.of(LOG, USER_BAG, space.scale)


def candidate_lists() -> CandidateLists:
    """Five lists of eight; the k-th has k + 1 hits, and the last one three places of padding."""
    rng = np.random.default_rng(1)
    items = np.stack([rng.permutation(N_ITEMS)[:N_CANDIDATES] for _ in range(5)]).astype(np.int32)
    engaged = np.zeros(items.shape, np.float32)
    for k in range(4):
        engaged[k, rng.permutation(N_CANDIDATES)[: k + 1]] = 1
    engaged[4, 0], engaged[4, 5:], items[4, 5:] = 1, -1, N_ITEMS
    dense = rng.standard_normal((*items.shape, len(DENSE_FEATURES))).astype(np.float32)
    return CandidateLists(np.arange(5, dtype=np.int32), items, dense, engaged)


def batches_of(
    *,
    rated: Interactions | None = LOG,
    lists: CandidateLists | None = None,
    settings: RankerSettings = SETTINGS,
) -> RankerBatches:
    space = space_of()
    return RankerBatches(
        space, rated=rated, states=states_in(space), lists=lists, settings=settings, seed=2
    )


def fit(
    *,
    rated: Interactions | None = LOG,
    lists: CandidateLists | None = None,
    like_at: float | None = 4.0,
    seed: int = 3,
    settings: RankerSettings = SETTINGS,
) -> FittedRanker:
    space = space_of(like_at=like_at)
    return fit_ranker(
        space, n_users=N_USERS, n_user_ids=2, rated=rated, states=states_in(space), lists=lists,
        settings=settings, seed=seed,
    )  # fmt: skip


# Rated rows


def test_every_rated_row_is_dealt_once_an_epoch_into_lists_of_one_user() -> None:
    batches = batches_of()
    dealings = []
    for _ in range(3):
        dealt = batches.rated_lists
        assert sorted(dealt[dealt >= 0]) == list(range(len(LOG)))
        assert dealt.shape[1] == SETTINGS.list_length
        for row in dealt:
            assert len(set(LOG.user[row[row >= 0]])) == 1
        # Nine rows in lists of four: three lists of three each.
        of_first = dealt[LOG.user[dealt[:, 0]] == 0]
        assert (of_first >= 0).sum(axis=1).tolist() == [3, 3, 3]
        assert set(batches.rated_order) == set(range(len(dealt)))
        dealings.append(dealt.tobytes())
        batches.on_epoch_end()
    assert len(set(dealings)) == 3


def test_a_rated_batch_asks_for_the_levels_of_its_rows_and_for_no_engagement() -> None:
    batches = batches_of(settings=replace(SETTINGS, forget_user=0.0))
    for step in range(len(batches)):
        place = batches.order[step][1]
        dealt = batches.rated_lists[batches.rated_order[place * 3 : place * 3 + 3]]
        inputs, labels = batches[step]
        real = dealt >= 0
        np.testing.assert_array_equal(labels["rating"][real], LOG.value[dealt[real]] - 1)
        assert (labels["rating"][~real] == NO_LABEL).all()
        assert (labels["engaged"] == NO_LABEL).all()
        np.testing.assert_array_equal(inputs["item"][real], LOG.item[dealt[real]])
        assert (inputs["item"][~real] == N_ITEMS).all()
        np.testing.assert_array_equal(inputs["user"], LOG.user[dealt[:, 0]])
        np.testing.assert_array_equal(inputs["weight"], real)
        assert (inputs["in_history"][real] == 1).all()


def test_users_are_forgotten_by_the_share_that_is_asked_for_in_training_alone() -> None:
    unknown = replace(SETTINGS, forget_user=1.0)
    batches = batches_of(settings=unknown)
    assert (batches[0][0]["user"] == N_USERS).all()
    dealt, inputs = batches.asked(0)
    np.testing.assert_array_equal(inputs["user"], LOG.user[dealt[:, 0]])


def test_asking_covers_every_row() -> None:
    batches = batches_of()
    dealt = np.concatenate([batches.asked(step)[0].ravel() for step in range(len(batches))])
    assert set(dealt) - {-1} == set(range(len(LOG)))


# Candidate lists


def test_hits_are_always_drawn_and_negatives_anew() -> None:
    lists = candidate_lists()
    batches = batches_of(rated=None, lists=lists)
    drawn_negatives = set()
    for _ in range(6):
        assert set(batches.list_order) == set(range(5))
        for step in range(len(batches)):
            rows = batches.list_order[batches.order[step][1] * 3 :][:3]
            inputs, labels = batches[step]
            for row, items, engaged in zip(rows, inputs["item"], labels["engaged"], strict=True):
                own = dict(zip(lists.items[row], lists.engaged[row], strict=True))
                assert set(items[engaged == 1]) == {i for i, e in own.items() if e == 1}
                assert all(own[i] == e for i, e in zip(items, engaged, strict=True))
                if row == 0:
                    drawn_negatives.add(tuple(sorted(items[engaged == 0])))
            assert not inputs["weight"].any()
            assert (labels["rating"] == NO_LABEL).all()
        batches.on_epoch_end()
    assert len(drawn_negatives) > 2


def test_the_sampling_shift_is_the_log_of_how_much_rarer_negatives_became() -> None:
    batches = batches_of(rated=None, lists=candidate_lists())
    # Four places a list. Before: 7, 6, 5, 4 and 4 negatives; drawn: what the hits leave, at least
    # none; where none is drawn, as if one had been.
    expected = np.log([7 / 3, 6 / 2, 5 / 1, 4 / 1, 4 / 3])
    inputs, _ = batches._candidate_batch(np.arange(5))
    np.testing.assert_allclose(inputs["sampling_shift"], expected, rtol=1e-6)


def test_a_list_that_is_short_is_filled_with_padding_last() -> None:
    batches = batches_of(
        rated=None, lists=candidate_lists(), settings=replace(SETTINGS, list_length=7)
    )
    inputs, labels = batches._candidate_batch(np.array([4]))
    assert (labels["engaged"][0, :5] >= 0).all()
    assert labels["engaged"][0, 5:].tolist() == [-1, -1]
    assert inputs["item"][0, 5:].tolist() == [N_ITEMS, N_ITEMS]
    assert inputs["sampling_shift"].tolist() == [0.0]


def test_an_epoch_holds_both_kinds_in_mixed_order() -> None:
    batches = batches_of(lists=candidate_lists())
    kinds = [is_rated for is_rated, _ in batches.order]
    n_rated = -(-len(batches.rated_lists) // 3)
    assert (sum(kinds), len(kinds)) == (n_rated, n_rated + 2)


# Fitting


@pytest.fixture(scope="module")
def fitted() -> FittedRanker:
    return fit(lists=candidate_lists())


def test_one_seed_gives_the_same_bits(fitted: FittedRanker) -> None:
    again = fit(lists=candidate_lists())
    assert again.curves == fitted.curves
    for one, same in zip(fitted.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


def test_the_head_reads_the_chosen_features_alone(fitted: FittedRanker) -> None:
    lists, head = candidate_lists(), fitted.model.engaged
    changed = lists.dense.copy()
    changed[..., 1:] += 3  # everything but the tower's score, which stands first
    np.testing.assert_array_equal(np.asarray(head(changed)), np.asarray(head(lists.dense)))
    changed[..., 0] += 3
    assert (np.asarray(head(changed)) != np.asarray(head(lists.dense))).any()


def test_without_lists_the_rating_head_alone_is_trained() -> None:
    fitted = fit(lists=None)
    assert np.isfinite(fitted.curves["loss"]).all()
    # Every candidate is equal: no label moved the head, only its decay the bias.
    kernels = (fitted.model.engaged.wide.kernel, fitted.model.engaged.out.kernel)
    assert not any(np.asarray(kernel).any() for kernel in kernels)


def test_without_ratings_the_engaged_head_alone_is_trained() -> None:
    fitted = fit(rated=None, like_at=None, lists=candidate_lists())
    assert np.isfinite(fitted.curves["loss"]).all()
    assert np.asarray(fitted.model.engaged.wide.kernel).any()
    assert fitted.model.trunk is None
    # No table has a row for each user or item.
    assert sum(weight.size for weight in fitted.model.get_weights()) < 5_000


@pytest.mark.parametrize("is_empty", [False, True])
def test_without_ratings_and_lists_every_candidate_is_equal(is_empty: bool) -> None:
    lists = candidate_lists()
    none = np.arange(0)
    empty = CandidateLists(lists.user[none], lists.items[none], lists.dense[none],
                           lists.engaged[none])  # fmt: skip
    fitted = fit(rated=None, like_at=None, lists=empty if is_empty else None)
    assert fitted.curves == {}
    np.testing.assert_allclose(np.asarray(fitted.model.engaged(lists.dense)), -3.0, atol=1e-6)


def test_joined_lists_stand_one_after_the_other() -> None:
    lists = candidate_lists()
    joined = lists.joined(lists)
    assert len(joined) == 10
    for name in ("user", "items", "dense", "engaged"):
        one = getattr(lists, name)
        np.testing.assert_array_equal(getattr(joined, name), np.concatenate([one, one]))
