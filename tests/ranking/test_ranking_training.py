"""Fitting the ranker: two heads, side by side."""

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import DENSE_FEATURES, RankerSpace
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.training import CandidateLists, FittedRanker, fit_ranker
from candidfeed.ranking.user_state import UserStates

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
