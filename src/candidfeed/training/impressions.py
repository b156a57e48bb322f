"""Lists of impressions with their users as they were known, for the ranker's action heads."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.impressions import Impressions, as_targets, read_impressions
from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset
from candidfeed.ranking.action_inputs import ActionSpace, Recent
from candidfeed.ranking.action_training import NO_LABEL, ActionLists
from candidfeed.ranking.inputs import DENSE_FEATURES, RankerSpace, dense_features
from candidfeed.ranking.user_state import UserStates
from candidfeed.training.candidates import touched_by
from candidfeed.training.neighbour_choice import Neighbour, scores_of_pasts
from candidfeed.training.side_features import SideFeatures
from candidfeed.training.stage_one import Fitted

# Impressions of a list have their user as known when the first of them was shown.
LIST_LENGTH = 16
MAX_LISTS = 40_000
_LISTS_AT_ONCE = 256
# Protocols that part the log at one time: what was shown can't be parted in another way.
_BY_TIME = frozenset({"temporal"})


@dataclass(frozen=True)
class Shown:
    """The impressions of a split's train part, and of what comes after.

    Attributes:
        older: before all that the split asks for.
        later: from there on, up to what may be learned from.
    """

    older: Impressions
    later: Impressions


def shown_of(dataset: Dataset, split: Split, *, until_s: float = np.inf) -> Shown | None:
    """None where the log says nothing of what was shown, or is not parted at one time."""
    if not dataset.labels or split.protocol not in _BY_TIME:
        return None
    cut = asked_from_s(split)
    older = read_impressions(dataset, split.users, split.items, until_s=cut)
    later = read_impressions(dataset, split.users, split.items, from_s=cut, until_s=until_s)
    return Shown(older, later) if len(older) and len(later) else None


def asked_from_s(split: Split) -> float:
    """When what is learned from ends; never, where the split does not part the log at one time."""
    if split.protocol not in _BY_TIME:
        return np.inf
    asked = np.concatenate([split.history.time_s, split.test.time_s])
    return float(asked.min(initial=np.inf))


def action_space(dataset: Dataset, split: Split, older: Impressions, tower: Fitted) -> ActionSpace:
    vectors = np.asarray(tower.model.item_vectors())
    return ActionSpace.of(older, dataset.labels, n_users=len(split.users), item_vectors=vectors)


def action_lists(
    dataset: Dataset,
    split: Split,
    features: SideFeatures,
    tower: Fitted,
    neighbour: Neighbour | None,
    shown: Impressions,
    *,
    seed: int,
) -> ActionLists:
    """Lists of impressions after the split's train part, at most MAX_LISTS of them.

    They are like what is asked about when a list is made: of users with a past, and of items that
    are not in it; of others stage one says something of another scale.

    Args:
        tower, neighbour: fitted on the split's train part.
        shown: impressions that lie after it.
    """
    rows, events = _listed(shown, seed), split.known.concat(split.test)
    n_before = _lengths(pasts_before(events, shown.user[rows[:, 0]], shown.time_s[rows[:, 0]]))
    rows = rows[n_before > 0]
    user, since = shown.user[rows[:, 0]], shown.time_s[rows[:, 0]]
    pasts = pasts_before(events, user, since)
    items = np.where(rows >= 0, shown.item[rows], len(split.items)).astype(np.int32)
    touched = touched_by(pasts.matrix, np.arange(len(rows), dtype=np.int32), items)
    rows, items = np.where(touched, -1, rows), np.where(touched, len(split.items), items)
    space = RankerSpace.fit(
        split.train, features.item_bag, features.item_map.n_ids, dataset.like_at
    )
    bag = Bag(features.user_bag.ids[user], features.user_bag.weights[user])
    states = UserStates.of(pasts, bag, space.scale)
    as_known = _Asked(user, since, pasts, states, replace(tower, user_bag=bag), neighbour)
    dense, recent = as_known.features(space, items)
    targets = as_targets(shown.followed, dataset.labels)[rows]
    return ActionLists(
        user=user,
        items=items,
        position=np.where(rows >= 0, shown.position[rows], 0).astype(np.int32),
        dense=dense,
        recent=recent,
        targets=np.where((rows >= 0)[..., None], targets, NO_LABEL).astype(np.float32),
    )


@dataclass(frozen=True)
class _Asked:
    """Users at the time when a list was shown to them, one row a list.

    Attributes:
        user: int32 [n].
        since: when each list was shown, float64 [n].
        pasts, states: as each was known by then.
        tower: with the features of these users, in their order.
    """

    user: NDArray[np.int32]
    since: NDArray[np.float64]
    pasts: Interactions
    states: UserStates
    tower: Fitted
    neighbour: Neighbour | None

    def features(
        self, space: RankerSpace, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], Recent]:
        """Dense features of each list's items, float32 [n, c, f], and the users' latest events."""
        scorer, n_items = self.tower.scorer(self.pasts), space.n_items
        vectors = np.asarray(scorer.item_vectors)
        dense = [np.zeros((0, items.shape[1], len(DENSE_FEATURES)), np.float32)]
        recent = [Recent.of(self.states.take(np.arange(0)), n_items=n_items)]
        for start in range(0, len(items), _LISTS_AT_ONCE):
            part = np.arange(start, min(start + _LISTS_AT_ONCE, len(items)), dtype=np.int32)
            state = replace(self.states.take(part), now_s=self.since[part])
            asked = np.minimum(items[part], n_items - 1)
            towers = np.einsum("bcd,bd->bc", vectors[asked], scorer.user_vectors(part))
            near = np.zeros_like(towers)
            if self.neighbour is not None:
                scores = scores_of_pasts(self.neighbour, self.pasts.matrix[part], self.user[part])
                near = np.take_along_axis(scores, asked, axis=1)
            dense.append(dense_features(space, state, items[part], tower=towers, neighbour=near))
            recent.append(Recent.of(state, n_items=n_items))
        columns = zip(*map(_columns, recent), strict=True)
        return np.concatenate(dense), Recent(*(np.concatenate(one) for one in columns))


def pasts_before(
    events: Interactions, user: NDArray[np.int32], before_s: NDArray[np.float64]
) -> Interactions:
    """What each of these users had done before a time, as the events of one user row each.

    Args:
        user: int32 [n]; one may come more than once.
        before_s: float64 [n].
    """
    events = events.take(np.lexsort((events.time_s, events.user)))
    starts = np.searchsorted(events.user, np.arange(events.n_users + 1))
    # Times in the order of users: one search finds all ends.
    span = events.time_s.max(initial=0.0) - events.time_s.min(initial=0.0) + 1.0
    line = events.user * span + (events.time_s - events.time_s.min(initial=0.0))
    asked = np.clip(before_s - events.time_s.min(initial=0.0), 0.0, span)
    ends = np.searchsorted(line, user * span + asked, side="left")
    lengths = np.maximum(ends - starts[user], 0)
    owner = np.repeat(np.arange(len(user), dtype=np.int32), lengths)
    at = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = events.take(at + np.repeat(starts[user], lengths))
    return replace(found, user=owner, n_users=len(user))


def _lengths(pasts: Interactions) -> NDArray[np.int64]:
    return np.bincount(pasts.user, minlength=pasts.n_users)


def _listed(shown: Impressions, seed: int) -> NDArray[np.int64]:
    """Rows of `shown` in lists of one user, in the order of time, int64 [n, LIST_LENGTH]; -1 pads.

    Of very many lists some are drawn.
    """
    counts = np.bincount(shown.user)
    within = np.arange(len(shown)) - np.repeat(np.cumsum(counts) - counts, counts)
    n_lists = -(-counts // LIST_LENGTH)
    first = np.cumsum(n_lists) - n_lists
    listed = np.full((n_lists.sum(), LIST_LENGTH), -1, np.int64)
    listed[first[shown.user] + within // LIST_LENGTH, within % LIST_LENGTH] = np.arange(len(shown))
    if len(listed) <= MAX_LISTS:
        return listed
    drawn = np.random.default_rng(seed).choice(len(listed), MAX_LISTS, replace=False)
    return listed[np.sort(drawn)]


def _columns(recent: Recent) -> tuple[NDArray[np.generic], ...]:
    return recent.items, recent.tone, recent.log_days
