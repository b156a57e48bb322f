"""Train the ranker's action heads on impressions that lie after what stage one learned from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from candidfeed.data.impressions import read_impressions
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.errors import DataError
from candidfeed.ranking.action_inputs import expected_actions
from candidfeed.ranking.action_training import (
    ActionLists,
    Actions,
    FittedActions,
    fit_actions,
    inputs_of,
)
from candidfeed.training.held_out import MAX_ROWS, HeldOut
from candidfeed.training.impressions import (
    action_lists,
    action_space,
    asked_from_s,
    shown_of,
)
from candidfeed.training.neighbour_choice import Neighbour
from candidfeed.training.side_features import SideFeatures
from candidfeed.training.stage_one import Fitted

MAX_EPOCHS = 6
# Fewer impressions than this teach nothing that the rates do not say.
MIN_LISTS = 60
_HELD_SHARE = 3
_LISTS_AT_ONCE = 256


@dataclass(frozen=True)
class TrainedActions:
    """Action heads, and what heads that did not learn from them say of a third of the users.

    Attributes:
        held: by label, for its calibration.
    """

    fitted: FittedActions
    held: Mapping[str, HeldOut]


def train_actions(
    dataset: Dataset,
    split: Split,
    features: SideFeatures,
    tower: Fitted,
    neighbour: Neighbour | None,
    *,
    until_s: float = np.inf,
    seed: int,
) -> TrainedActions | None:
    """Heads that learn from what was shown after the split's train part.

    Args:
        tower, neighbour: fitted on that train part.
        until_s: what lies there or after is not read.

    Returns:
        None where there is too little to learn from.
    """
    shown = shown_of(dataset, split, until_s=until_s)
    if shown is None:
        return None
    space = action_space(dataset, split, shown.older, tower)
    lists = action_lists(dataset, split, features, tower, neighbour, shown.later, seed=seed)
    if len(lists) < MIN_LISTS:
        return None
    learned, held = _parted(lists, seed)
    tried = fit_actions(space, learned, n_epochs=MAX_EPOCHS, seed=seed, held=held)
    said = said_of(Actions(space, tried.heads), held)
    fitted = fit_actions(space, lists, n_epochs=tried.n_epochs, seed=seed)
    return TrainedActions(FittedActions(fitted.heads, tried.n_epochs, tried.curves), said)


def require_heads(
    dataset: Dataset,
    split: Split,
    weights: Mapping[str, float] | None,
    trained: TrainedActions | None,
) -> None:
    """
    Raises:
        DataError: a label has a weight, but there is nothing to learn it from.
    """
    asked = [label.name for label in dataset.labels if (weights or {}).get(label.name)]
    if trained is None and asked:
        raise DataError(
            f"{dataset.name}: {asked[0]!r} has a weight in the order of the list, but under "
            f"protocol {split.protocol!r} there are too few impressions to learn it from; use "
            "'temporal' and a longer log, or settings with value_weights.engaged = 1"
        )


def as_asked(
    dataset: Dataset, split: Split, tower: Fitted, trained: TrainedActions | None
) -> Actions | None:
    """The trained heads with all that may be known when they are asked.

    Args:
        split: whose users and items are asked about.
        tower: that is asked, fitted on the split's train part.
    """
    if trained is None:
        return None
    until_s = asked_from_s(split)
    shown = read_impressions(dataset, split.users, split.items, until_s=until_s)
    return Actions(action_space(dataset, split, shown, tower), trained.fitted.heads)


def said_of_later(
    dataset: Dataset,
    split: Split,
    features: SideFeatures,
    tower: Fitted,
    neighbour: Neighbour | None,
    actions: Actions,
    *,
    seed: int,
) -> dict[str, HeldOut]:
    """What the heads expect of what was shown after the split's train part, as `said_of`."""
    shown = shown_of(dataset, split)
    if shown is None:
        return {}
    lists = action_lists(dataset, split, features, tower, neighbour, shown.later, seed=seed)
    return said_of(actions, lists)


def _parted(lists: ActionLists, seed: int) -> tuple[ActionLists, ActionLists]:
    """The lists of two thirds of the users, and those of the others."""
    users, owner = np.unique(lists.user, return_inverse=True)
    is_held = np.random.default_rng(seed).permutation(len(users))[owner] % _HELD_SHARE == 0
    return lists.take(np.flatnonzero(~is_held)), lists.take(np.flatnonzero(is_held))


def said_of(actions: Actions, lists: ActionLists) -> dict[str, HeldOut]:
    """What the heads expect of these impressions at their places, and what came; by label."""
    parts, real = [], lists.real
    for start in range(0, len(lists), _LISTS_AT_ONCE):
        rows = np.resize(np.arange(start, min(start + _LISTS_AT_ONCE, len(lists))), _LISTS_AT_ONCE)
        inputs = inputs_of(actions.space, lists.take(rows))
        logs = np.asarray(actions.heads.expected(actions.heads(inputs)))
        parts.append(logs[: min(_LISTS_AT_ONCE, len(lists) - start)])
    expected = expected_actions(np.concatenate(parts), actions.space)
    user = np.broadcast_to(lists.user[:, None], real.shape)[real]
    some = np.linspace(0, len(user) - 1, min(len(user), MAX_ROWS)).astype(np.int64)
    return {
        label.name: HeldOut(
            user[some],
            expected[label.name][real][some],
            lists.targets[..., place][real][some] > 0,
        )
        for place, label in enumerate(actions.space.labels)
        if not label.counted
    }
