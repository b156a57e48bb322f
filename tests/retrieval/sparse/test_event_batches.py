"""What batches are dealt: each event once, in a seeded order, with the negatives of its loss."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidfeed.errors import DataError
from candidfeed.retrieval.sparse import event_batches as module
from candidfeed.retrieval.sparse.event_batches import EventBatches, Sampling, TowerRows

N_USERS, N_ITEMS = 1000, 40
FEW = Sampling(n_uniform=6, n_in_batch=2)


def batches_of(n: int, *, batch_size: int = 4, sampling: Sampling = FEW, **options) -> EventBatches:
    """Event k is by user k, so that each can be told from the others."""
    user = np.arange(n, dtype=np.int32)
    item = np.random.default_rng(n).integers(N_ITEMS, size=n, dtype=np.int32)
    options = {"users": TowerRows(max(n, 1)), "items": TowerRows(N_ITEMS), **options}
    return EventBatches(user, item, batch_size=batch_size, sampling=sampling, **options)


def dealt(batches: EventBatches) -> np.ndarray:
    """Users of an epoch, [batches, batch_size]."""
    return np.array([batches[i][0]["user"] for i in range(len(batches))])


@given(n=st.integers(2, 700), batch_size=st.integers(2, 9), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_no_event_is_dealt_twice_and_less_than_a_batch_is_left_over(
    n: int, batch_size: int, seed: int
) -> None:
    batches = batches_of(n, batch_size=batch_size, seed=seed)
    users = dealt(batches).ravel()
    assert len(set(users.tolist())) == len(users)
    assert 0 <= n - len(users) < batches.batch_size
    item_of = batches.item_row
    for at in range(len(batches)):
        batch = batches[at][0]
        np.testing.assert_array_equal(
            batch["item_row"][: batches.batch_size], item_of[batch["user"]]
        )


def test_in_two_epochs_every_event_was_dealt() -> None:
    batches = batches_of(130 * 8 + 3, batch_size=8)
    seen = set()
    for epoch in range(2):
        batches.epoch = epoch
        seen |= set(dealt(batches).ravel().tolist())
    assert len(seen) == 130 * 8 + 3


def test_a_batch_depends_on_seed_epoch_and_place_alone() -> None:
    in_order, backwards = batches_of(600), batches_of(600)
    expected = [in_order[i][0] for i in range(len(in_order))]
    for i in reversed(range(len(backwards))):
        for name, value in backwards[i][0].items():
            np.testing.assert_array_equal(value, expected[i][name])
    other_seed, other_epoch = batches_of(600, seed=1), batches_of(600)
    other_epoch.epoch = 1
    for other in (other_seed, other_epoch):
        assert (dealt(other) != dealt(in_order)).any()
        assert (other[0][0]["item_row"][4:] != expected[0]["item_row"][4:]).any()


def test_a_log_that_is_mixed_as_a_whole_loses_its_order() -> None:
    users = dealt(batches_of(500)).ravel()
    # Of a random order, neighbours follow each other about twice in 500.
    assert (np.diff(users) == 1).sum() < 15
    assert abs(np.corrcoef(np.arange(len(users)), users)[0, 1]) < 0.2


def test_what_is_in_memory_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BATCHES", 2)
    monkeypatch.setattr(module, "_CHUNKS_AT_ONCE", 3)
    batches = batches_of(101)
    users = dealt(batches)
    assert len(set(users.ravel().tolist())) == users.size == 100
    assert batches._mixed is not None
    assert len(batches._mixed[1]) <= 2 * 3 * 4


def test_memory_mapped_events_are_dealt_like_those_in_memory(tmp_path: Path) -> None:
    kept = batches_of(97)
    np.save(tmp_path / "user.npy", kept.user_row)
    np.save(tmp_path / "item.npy", kept.item_row)
    columns = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("user", "item"))
    mapped = EventBatches(*columns, users=kept.users, items=kept.items, batch_size=4, sampling=FEW)
    np.testing.assert_array_equal(dealt(mapped), dealt(kept))


def test_negatives_are_uniform_and_in_batch_with_the_log_of_their_expected_draws() -> None:
    batches = batches_of(400)
    drawn = np.concatenate([batches[i][0]["item_row"][4:] for i in range(len(batches))])
    counts = np.bincount(drawn, minlength=N_ITEMS)
    expected = len(drawn) / N_ITEMS
    assert ((counts - expected) ** 2 / expected).sum() < 75  # chi-square of 39, p < .001
    batch = batches[3][0]
    share = np.bincount(batches.item_row, minlength=N_ITEMS) / 400
    both = np.log(6 / N_ITEMS + 2 * share)
    np.testing.assert_allclose(batch["uniform_logq"], both[batch["item_row"][4:]], rtol=1e-5)
    np.testing.assert_allclose(batch["in_batch_logq"], both[batch["item_row"][:2]], rtol=1e-5)


def test_hard_negatives_follow_the_others_and_none_is_said_by_minus_one() -> None:
    def hard(users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return np.stack([(items + 1) % N_ITEMS, np.full_like(users, -1)], axis=1)

    columns = {"double": np.arange(N_ITEMS) * 2.0}
    batches = batches_of(40, sampling=Sampling(6, 2, hard=hard), items=TowerRows(N_ITEMS, columns))
    batch = batches[0][0]
    rows = batch["item_row"]
    assert len(rows) == 4 + 6 + 4 * 2
    np.testing.assert_array_equal(rows[10::2], (rows[:4] + 1) % N_ITEMS)
    assert rows[11::2].tolist() == [-1] * 4
    np.testing.assert_array_equal(batch["item"]["double"], np.maximum(rows, 0) * 2.0)


def test_the_target_is_taken_out_of_the_history_that_predicts_it() -> None:
    history = np.random.default_rng(0).integers(N_ITEMS, size=(60, 30), dtype=np.int32)
    users = TowerRows(60, {"history": history})
    batches = batches_of(60, users=users, hide_target_in=("history",))
    order = dealt(batches_of(60)).astype(int)
    for at in range(len(batches)):
        shown, target = batches[at][0]["user"]["history"], batches[at][0]["item_row"][:4, None]
        own = history[order[at]]
        np.testing.assert_array_equal(shown, np.where(own == target, N_ITEMS, own))
    assert (history < N_ITEMS).all()


def test_a_log_smaller_than_a_batch_and_its_negatives_is_one_batch() -> None:
    batches = batches_of(3, batch_size=8192, sampling=Sampling(6, 99))
    assert batches[0][0]["in_batch_logq"].shape == (3,)
    assert (len(batches), batches.batch_size) == (1, 3)
    assert sorted(batches[0][0]["user"].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        ([], [], "0 users and 0 items"),
        ([0, 1], [0], "2 users and 1 items"),
        ([0, 10], [0, 0], "user row 10 is not in a table of 10 rows"),
        ([0, 1], [0, -1], "item row -1 is not in a table of 5 rows"),
    ],
)
def test_events_that_can_not_be_dealt_are_refused(
    user: list[int], item: list[int], message: str
) -> None:
    columns = (np.array(one, np.int32) for one in (user, item))
    with pytest.raises(DataError, match=message):
        EventBatches(*columns, users=TowerRows(10), items=TowerRows(5), sampling=FEW)


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="'words' has 3 rows, not 4"):
        TowerRows(4, {"words": np.zeros((3, 2))})
