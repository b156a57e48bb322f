"""The stream of events that the history tower is trained on."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import chronological
from candidfeed.data.interactions import Interactions
from candidfeed.errors import DataError
from candidfeed.retrieval.large.stream_batches import StreamBatches, StreamSampling

N_USERS, N_ITEMS, N_BEFORE, SIZE = 30, 20, 4, 16
SAMPLING = StreamSampling(
    batch_size=SIZE, n_uniform=6, n_by_events=3, drop_ids=0.3, drop_events=0.25
)


def bag(n: int) -> Bag:
    return Bag(np.arange(n, dtype=np.int32)[:, None], np.ones((n, 1), np.float32))


def log(n: int = 150) -> Interactions:
    """Events of random users; items from 15 on are touched by none."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(N_USERS, size=n), rng.integers(15, size=n)
    events = Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.full(n, np.nan, np.float32),
        np.arange(n, dtype=np.float64),
        N_USERS,
        N_ITEMS,
    )
    return chronological(events)


def batches_of(events: Interactions, **options: Any) -> StreamBatches:
    chosen = {"sampling": SAMPLING, "n_before": N_BEFORE, "seed": 5, **options}
    return StreamBatches(events, user_bag=bag(N_USERS), item_bag=bag(N_ITEMS), **chosen)


def all_of(batches: StreamBatches) -> list[dict[str, NDArray[Any]]]:
    return [batches[i][0] for i in range(len(batches))]


def test_an_epoch_is_all_users_one_by_one_each_with_all_events_oldest_first() -> None:
    events = log()
    batches = all_of(batches_of(events))
    is_there = np.concatenate([one["weight"] for one in batches]) > 0
    user = np.concatenate([one["user"][N_BEFORE:] for one in batches])[is_there]
    item = np.concatenate([one["item_row"][N_BEFORE : N_BEFORE + SIZE] for one in batches])
    in_order = np.argsort(user, kind="stable")
    np.testing.assert_array_equal(user[in_order], events.user)
    np.testing.assert_array_equal(item[is_there][in_order], events.item)
    assert np.count_nonzero(np.diff(user)) == len(np.unique(user)) - 1
    assert (user != events.user).any()


def test_a_batch_begins_with_the_events_that_end_the_one_before() -> None:
    batches = all_of(batches_of(log()))
    for one, after in pairwise(batches):
        np.testing.assert_array_equal(after["user"][:N_BEFORE], one["user"][-N_BEFORE:])
        end = slice(SIZE, N_BEFORE + SIZE)
        np.testing.assert_array_equal(after["item_row"][:N_BEFORE], one["item_row"][end])
    np.testing.assert_array_equal(batches[0]["user"][:N_BEFORE], -1)
    assert not batches[0]["is_read"][:N_BEFORE].any()


def test_a_batch_depends_on_seed_epoch_and_place_alone() -> None:
    one, other = batches_of(log()), batches_of(log())
    one.epoch = other.epoch = 3
    all_of(one)
    for name, column in other[2][0].items():
        np.testing.assert_array_equal(one[2][0][name], column)
    other.epoch = 4
    assert (one[0][0]["item_row"] != other[0][0]["item_row"]).any()


def test_negatives_are_touched_items_with_the_log_of_their_expected_draws() -> None:
    events = log()
    batch = batches_of(events)[1][0]
    negatives = batch["item_row"][-9:]
    assert negatives.max() < 15
    share = np.bincount(events.item) / len(events)
    expected = np.log(6 / 15 + 3 * share[negatives])
    np.testing.assert_allclose(batch["negative_logq"], expected, rtol=1e-5)


def test_mined_items_take_their_share_of_the_negatives_and_count_among_the_expected_draws() -> None:
    events = log()
    batches = batches_of(events, sampling=replace(SAMPLING, hard_share=1 / 3))
    before = batches[1][0]
    batches.mix_in(np.empty(0, np.int32))
    np.testing.assert_array_equal(batches[1][0]["item_row"], before["item_row"])
    batches.mix_in(np.array([7, 7, 7, 9], np.int32))
    drawn = [batches[i][0] for i in range(len(batches)) for batches.epoch in range(200)]
    negatives = np.concatenate([one["item_row"][-9:] for one in drawn])
    # Four evenly, two by events, three of the mined.
    expected = 4 / 15 + 2 * np.bincount(events.item, minlength=15) / len(events)
    expected[7] += 3 * 3 / 4
    expected[9] += 3 * 1 / 4
    logq = np.concatenate([one["negative_logq"] for one in drawn])
    np.testing.assert_allclose(logq, np.log(expected[negatives]), rtol=1e-5)
    counted = np.bincount(negatives, minlength=15) / len(drawn)
    np.testing.assert_allclose(counted, expected, atol=0.1)


def test_ids_are_hidden_and_events_left_out_at_the_shares_asked_for() -> None:
    batches = all_of(batches_of(log(4000)))
    hidden = np.concatenate([one["item_id"] == -1 for one in batches])
    shown = np.concatenate([one["is_read"][one["user"] >= 0] for one in batches])
    assert abs(hidden.mean() - 0.3) < 0.05
    assert abs(shown.mean() - 0.75) < 0.05
    for one in batches:
        kept = one["item_id"] >= 0
        np.testing.assert_array_equal(one["item_id"][kept], one["item_row"][kept])


def test_features_are_those_of_the_events_own_users_and_items() -> None:
    batch = batches_of(log())[0][0]
    np.testing.assert_array_equal(batch["item_ids"][:, 0], batch["item_row"])
    np.testing.assert_array_equal(batch["user_ids"][:, 0], batch["user"][N_BEFORE:])


@pytest.mark.parametrize("name", ["hard_share", "drop_ids", "drop_events"])
@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan])
def test_a_share_that_is_none_is_refused_with_its_name(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a share from 0 to 1, not {share}"):
        replace(SAMPLING, **{name: share})


def test_no_event_and_a_batch_that_does_not_fit_the_blocks_are_refused() -> None:
    events = log()
    with pytest.raises(DataError, match="at least one event"):
        batches_of(events.take(np.arange(0)))
    with pytest.raises(ValueError, match="no multiple of 5"):
        batches_of(events, n_before=5)
