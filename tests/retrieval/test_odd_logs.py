"""Logs that nobody would train on gladly: stage one gives finite scores all the same."""

from collections.abc import Callable

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval import closed_form_choice
from candidfeed.retrieval.training import (
    MAX_HISTORY,
    TowerSettings,
    choose_closed,
    fit_tower,
)
from candidfeed.retrieval.validation import Asked

Pairs = list[tuple[int, int]]
N_ITEMS = 40
LONGEST = MAX_HISTORY + 20


def one_who_touched_everything() -> Pairs:
    others = [(user, (7 * user + step) % LONGEST) for user in range(1, 12) for step in range(5)]
    return [(0, item) for item in range(LONGEST)] + others


ODD_LOGS: dict[str, Callable[[], Pairs]] = {
    "a history longer than the limit": one_who_touched_everything,
    "everyone touched the same items": lambda: [(u, i) for u in range(12) for i in range(N_ITEMS)],
    "one event a user": lambda: [(user, user % 5) for user in range(20)],
    "one item": lambda: [(user, 0) for user in range(20)],
    "one user": lambda: [(0, item) for item in range(N_ITEMS)],
    "nothing in common": lambda: [(user, user) for user in range(N_ITEMS)],
    "every row five times": lambda: [(user, user % 7) for user in range(20)] * 5,
    "most items untouched": lambda: [(user, user % 3) for user in range(20)] + [(0, N_ITEMS - 1)],
}


def log_of(pairs: Pairs) -> Interactions:
    user, item = np.array(pairs, np.int32).T
    nothing = np.full(len(pairs), np.nan)
    n_users, n_items = user.max() + 1, max(N_ITEMS, item.max() + 1)
    return Interactions(user, item, nothing.astype(np.float32), nothing, n_users, n_items)


def alike(n: int) -> Bag:
    """Everything has the same feature."""
    return Bag(np.ones((n, 1), np.int32), np.ones((n, 1), np.float32))


@pytest.mark.parametrize("name", ODD_LOGS)
@pytest.mark.parametrize("is_large_catalogue", [False, True])
def test_an_odd_log_is_chosen_for_trained_on_and_asked_with_finite_scores(
    name: str, is_large_catalogue: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large_catalogue:
        monkeypatch.setattr(closed_form_choice, "MAX_NEIGHBOUR_ITEMS", 0)
    log = log_of(ODD_LOGS[name]())
    is_kept = np.random.default_rng(0).random(len(log)) < 0.8
    asked = Asked(log.take(is_kept), log.take(~is_kept))
    users, items = alike(log.n_users), alike(log.n_items)
    closed = choose_closed(asked.known, items, asked, seed=1)
    settings = TowerSettings(closed, dim=4, n_epochs=0 if is_large_catalogue else 1)
    fitted = fit_tower(
        asked.known, user_bag=users, item_bag=items, n_user_ids=2, n_item_ids=2,
        settings=settings, seed=1, validation=asked,
    )  # fmt: skip
    scores = fitted.scorer(log).scores(np.arange(log.n_users))
    assert scores.shape == (log.n_users, log.n_items)
    assert np.isfinite(scores).all()
