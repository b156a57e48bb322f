"""Fitting the ranker: every rating once an epoch, one user a list; two heads, side by side."""

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


def batches_of(*, settings: RankerSettings = SETTINGS) -> RankerBatches:
    space = space_of()
    return RankerBatches(space, rated=LOG, states=states_in(space), settings=settings, seed=2)


def fit(
    *,
    rated: Interactions | None = LOG,
    lists: CandidateLists | None = None,
    like_at: float | None = 4.0,
    seed: int = 3,
    settings: RankerSettings = SETTINGS,
    log_more_hits: float = 0.0,
) -> FittedRanker:
    space = space_of(like_at=like_at)
    return fit_ranker(
        space, n_users=N_USERS, n_user_ids=2, rated=rated, states=states_in(space), lists=lists,
        settings=settings, seed=seed, log_more_hits=log_more_hits,
    )  # fmt: skip


# Rated rows


def test_every_rated_row_is_dealt_once_an_epoch_into_lists_of_one_user() -> None:
    batches = batches_of()
    dealings = []
    for _ in range(3):
        dealt = batches.dealt
        assert sorted(dealt[dealt >= 0]) == list(range(len(LOG)))
        assert dealt.shape[1] == SETTINGS.list_length
        for row in dealt:
            assert len(set(LOG.user[row[row >= 0]])) == 1
        # Nine rows in lists of four: three lists of three each.
        of_first = dealt[LOG.user[dealt[:, 0]] == 0]
        assert (of_first >= 0).sum(axis=1).tolist() == [3, 3, 3]
        assert set(batches.order) == set(range(len(dealt)))
        dealings.append(dealt.tobytes())
        batches.on_epoch_end()
    assert len(set(dealings)) == 3


def test_a_rated_batch_asks_for_the_levels_of_its_rows_and_for_no_engagement() -> None:
    batches = batches_of(settings=replace(SETTINGS, forget_user=0.0))
    for step in range(len(batches)):
        dealt = batches.dealt[batches.order[step * 3 : step * 3 + 3]]
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


# Fitting


@pytest.fixture(scope="module")
def fitted() -> FittedRanker:
    return fit(lists=candidate_lists())


def test_one_seed_gives_the_same_bits(fitted: FittedRanker) -> None:
    again = fit(lists=candidate_lists())
    assert again.curves == fitted.curves
    assert again.engagement_curves == fitted.engagement_curves
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
    assert fitted.engagement_curves == {}
    # Every candidate is equal: nothing moved the head.
    head = fitted.model.engaged
    assert not any(np.asarray(kernel).any() for kernel in (head.wide.kernel, head.out.kernel))
    np.testing.assert_array_equal(np.asarray(head.wide.bias), [-3.0])


def test_the_taste_trunk_is_the_same_with_and_without_candidate_lists(
    fitted: FittedRanker,
) -> None:
    alone = fit(lists=None)
    assert alone.curves == fitted.curves
    for one, same in zip(
        fitted.model.trunk.get_weights(), alone.model.trunk.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, same)


def test_more_hits_when_asked_raise_every_logit_alike(fitted: FittedRanker) -> None:
    raised = fit(lists=candidate_lists(), log_more_hits=0.7)
    dense = candidate_lists().dense
    gap = np.asarray(raised.model.engaged(dense)) - np.asarray(fitted.model.engaged(dense))
    np.testing.assert_allclose(gap, 0.7, atol=1e-5)


def test_without_ratings_the_engaged_head_alone_is_trained() -> None:
    fitted = fit(rated=None, like_at=None, lists=candidate_lists())
    assert fitted.curves == {}
    assert np.isfinite(fitted.engagement_curves["loss"]).all()
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
    assert fitted.curves == fitted.engagement_curves == {}
    np.testing.assert_allclose(np.asarray(fitted.model.engaged(lists.dense)), -3.0, atol=1e-6)


def test_joined_lists_stand_one_after_the_other() -> None:
    lists = candidate_lists()
    joined = lists.joined(lists)
    assert len(joined) == 10
    for name in ("user", "items", "dense", "engaged"):
        one = getattr(lists, name)
        np.testing.assert_array_equal(getattr(joined, name), np.concatenate([one, one]))
