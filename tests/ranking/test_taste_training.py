"""Batches of rated rows: every rating once an epoch, one user a list."""

from dataclasses import replace

import numpy as np

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.inputs import RankerSpace
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.taste_training import NO_LABEL, RankerBatches
from candidfeed.ranking.user_state import UserStates

N_ITEMS = 9
SETTINGS = RankerSettings(list_length=4, lists_per_batch=3)


def rated_log() -> Interactions:
    """Seven users; user 0 rated all 9 items, user 6 nothing."""
    rng = np.random.default_rng(0)
    counts = [9, 1, 4, 5, 8, 3, 0]
    user = np.repeat(np.arange(7, dtype=np.int32), counts)
    item = np.concatenate([rng.permutation(N_ITEMS)[:n] for n in counts]).astype(np.int32)
    value = rng.integers(1, 6, len(user)).astype(np.float32)
    order = rng.permutation(len(user))
    return Interactions(user[order], item[order], value, np.arange(len(user)) * 1e5, 7, N_ITEMS)


LOG = rated_log()


def batches_of(*, settings: RankerSettings = SETTINGS) -> RankerBatches:
    nothing = Bag(np.zeros((N_ITEMS, 1), np.int32), np.zeros((N_ITEMS, 1), np.float32))
    space = RankerSpace.fit(LOG, nothing, 1, like_at=4.0)
    states = UserStates.of(LOG, Bag(nothing.ids[:7], nothing.weights[:7]), space.scale)
    return RankerBatches(space, rated=LOG, states=states, settings=settings, seed=2)


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
    assert (batches[0][0]["user"] == LOG.n_users).all()
    dealt, inputs = batches.asked(0)
    np.testing.assert_array_equal(inputs["user"], LOG.user[dealt[:, 0]])


def test_asking_covers_every_row() -> None:
    batches = batches_of()
    dealt = np.concatenate([batches.asked(step)[0].ravel() for step in range(len(batches))])
    assert set(dealt) - {-1} == set(range(len(LOG)))
