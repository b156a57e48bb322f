"""What is true of the synthetic world at a moment: tastes, feedback and what each source shows.

The log is drawn from these formulas, and the oracle answers with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidfeed.data.synthetic.settings import START, WorldSettings
from candidfeed.data.synthetic.world import World

Float = NDArray[np.float32]


def taste_shift(drift: Float, tau: NDArray[np.float64]) -> Float:
    """The share of each user's taste that has turned at a time given as a share of the span."""
    return np.clip(drift * tau, 0.0, 1.0).astype(np.float32)


def taste_at(taste: Float, shift: Float) -> Float:
    """Each user's taste, float32 [n, n_factors], of [n, 2, n_factors]."""
    turned = np.sqrt(shift)[:, None]
    stayed = np.sqrt(1 - shift)[:, None]
    return stayed * taste[:, 0] + turned * taste[:, 1]


def examined(settings: WorldSettings) -> Float:
    """P(looked at) of each position, the first of which is 1; float32 [slate_length]."""
    positions = np.arange(1, settings.slate_length + 1)
    return (positions**-settings.examine_exponent).astype(np.float32)


def novelty(settings: WorldSettings, age_ticks: NDArray[np.integer]) -> Float:
    """What being new adds to the click logit."""
    half_lives = age_ticks.astype(np.float32) / np.float32(
        settings.age_half_life_days * settings.ticks_per_day
    )
    return np.float32(settings.age_gain) * np.exp2(-half_lives)


def p_click(settings: WorldSettings, affinity: Float, appeal: Float) -> Float:
    """P(click | looked at); `appeal` is what does not depend on taste, as a logit."""
    base, gain = settings.click
    return _sigmoid(np.float32(base) + np.float32(gain) * affinity + appeal)


def p_like(settings: WorldSettings, affinity: Float, quality: Float, clickbait: Float) -> Float:
    """P(like | clicked)."""
    base, gain = settings.like
    return _sigmoid(np.float32(base) + np.float32(gain) * affinity + quality - clickbait)


def p_hide(settings: WorldSettings, affinity: Float, clickbait: Float) -> Float:
    """P(hide | looked at, not clicked)."""
    base, gain = settings.hide
    return _sigmoid(np.float32(base) + np.float32(gain) * affinity + clickbait)


def _sigmoid(logit: Float) -> Float:
    return np.reciprocal(1 + np.exp(-logit))


def other_share(settings: WorldSettings) -> Float:
    """P(a slot is filled by another source than taste), by position; float32 [slate_length]."""
    return np.linspace(*settings.other_share, settings.slate_length).astype(np.float32)


@dataclass(frozen=True)
class Lots:
    """What the sources draw from: each source holds a stretch of one long row of lots.

    The row has each item's tickets ordered by cluster and then by item, then all tickets ordered by
    item, then each item once. What is out at a tick is in front in each, so any source at any tick
    is a stretch [start, end) in which every lot is equally likely.

    Attributes:
        world: whose lots they are.
    """

    world: World

    @cached_property
    def item(self) -> NDArray[np.int32]:
        """The item of each lot, int32 [2 * n_tickets + n_items]."""
        items = self.world.items
        rows = np.arange(len(items.tickets), dtype=np.int32)
        order = self._by_cluster
        by_cluster = np.repeat(rows[order], items.tickets[order])
        return np.concatenate([by_cluster, np.repeat(rows, items.tickets), rows])

    @cached_property
    def user(self) -> NDArray[np.int32]:
        """The user of each of the users' tickets, in the order in which they joined."""
        users = self.world.users
        return np.repeat(np.arange(len(users.tickets), dtype=np.int32), users.tickets)

    @cached_property
    def user_end(self) -> NDArray[np.int64]:
        """Where the tickets of those who have joined end, int64 [n_ticks]."""
        return np.cumsum(self.world.users.tickets, dtype=np.int64)[self.world.n_users_at - 1]

    @cached_property
    def cluster_start(self) -> NDArray[np.int64]:
        """int64 [n_clusters]."""
        return self._end_of_ordered[self._cluster_edges[:-1]]

    @cached_property
    def cluster_end(self) -> NDArray[np.int64]:
        """int64 [n_ticks, n_clusters]; equal to the start where nothing of the cluster is out."""
        edges, order, n_items_at = self._cluster_edges, self._by_cluster, self.world.n_items_at
        n_out = [
            start + np.searchsorted(order[start:end], n_items_at) for start, end in pairwise(edges)
        ]
        return self._end_of_ordered[np.stack(n_out, axis=1)]

    @cached_property
    def cluster_size(self) -> Float:
        """Lots of each cluster that are out, float32 [n_ticks, n_clusters]."""
        return (self.cluster_end - self.cluster_start).astype(np.float32)

    @cached_property
    def other_start(self) -> NDArray[np.int64]:
        """Of popular, fresh and explored items, int64 [3, n_ticks]."""
        n_tickets, zeros = self.n_tickets, np.zeros_like(self.world.n_items_at)
        rows = 2 * n_tickets
        return np.stack([zeros + n_tickets, rows + self.world.first_fresh_at, zeros + rows])

    @cached_property
    def other_end(self) -> NDArray[np.int64]:
        """int64 [3, n_ticks]."""
        n_items_at = self.world.n_items_at
        popular = self.n_tickets + np.cumsum(self.world.items.tickets, dtype=np.int64)
        rows = 2 * self.n_tickets + n_items_at
        return np.stack([popular[n_items_at - 1], rows, rows])

    @cached_property
    def other_size(self) -> Float:
        """Lots of popular, fresh and explored items, float32 [3, n_ticks]."""
        return (self.other_end - self.other_start).astype(np.float32)

    @cached_property
    def n_tickets(self) -> int:
        return int(self.world.items.tickets.sum(dtype=np.int64))

    @cached_property
    def _by_cluster(self) -> NDArray[np.int64]:
        return np.argsort(self.world.items.cluster, kind="stable")

    @cached_property
    def _cluster_edges(self) -> NDArray[np.int64]:
        sizes = np.bincount(self.world.items.cluster, minlength=self.world.settings.n_clusters)
        return np.concatenate([[0], np.cumsum(sizes)])

    @cached_property
    def _end_of_ordered(self) -> NDArray[np.int64]:
        """Tickets before each item and, at the end, all, in the order by cluster."""
        tickets = self.world.items.tickets[self._by_cluster]
        return np.concatenate([[0], np.cumsum(tickets, dtype=np.int64)])


@dataclass(frozen=True)
class UsersAt:
    """Users at a moment, or each at their own.

    Attributes:
        tick: int64, with no axis where the moment is one for all.
        shift: the share of the taste that has turned.
        taste: what they like, float32 [n, n_factors].
        clusters: their two lists.
        generosity: added to the click logit.
    """

    tick: NDArray[np.int64]
    shift: Float
    taste: Float
    clusters: NDArray[np.uint16]
    generosity: Float

    @classmethod
    def of(cls, world: World, users: NDArray[np.integer], time_s: ArrayLike) -> "UsersAt":
        """Seconds since 1970 UTC, one for all or one a user."""
        users = np.asarray(users)
        since_s = np.asarray(time_s, dtype=np.float64) - START.timestamp()
        tau = since_s / timedelta(days=world.settings.span_days).total_seconds()
        shift = taste_shift(world.users.drift[users], tau)
        return cls(
            tick=world.tick_of(tau),
            shift=shift,
            taste=taste_at(world.users.taste[users], shift),
            clusters=world.users.clusters[users],
            generosity=world.users.generosity[users],
        )

    def with_axis(self) -> "UsersAt":
        """The same with an axis for items after that of the users."""
        return UsersAt(
            tick=self.tick[:, None] if self.tick.ndim else self.tick,
            shift=self.shift[:, None],
            taste=self.taste,
            clusters=self.clusters[:, None],
            generosity=self.generosity[:, None],
        )

    def likes(self, cluster: NDArray[np.uint16], settings: WorldSettings) -> Float:
        """P(taste picks the cluster), one a user."""
        picked = [share * (liked == cluster) for liked, share in self._lists(settings)]
        return np.sum(picked, axis=0)

    def likes_nothing(self, lots: Lots, settings: WorldSettings) -> Float:
        """P(taste picks a cluster of which nothing is out), one a user."""
        sizes = [(lots.cluster_size[self.tick, k], share) for k, share in self._lists(settings)]
        return np.sum([share * (size == 0) for size, share in sizes], axis=0)

    def cluster_shares(self, settings: WorldSettings) -> Float:
        """P(taste picks each cluster), float32 [n_users, n_clusters]; of what `with_axis` gave."""
        shares = np.zeros((len(self.shift), settings.n_clusters), dtype=np.float32)
        rows = np.arange(len(shares))
        for liked, share in self._lists(settings):
            shares[rows, liked[:, 0]] += share[:, 0]
        return shares

    def _lists(self, settings: WorldSettings) -> Iterator[tuple[NDArray[np.uint16], Float]]:
        """Each entry of the users' lists of clusters, and P(taste picks it)."""
        for turned, of_list in enumerate((1 - self.shift, self.shift)):
            for place, weight in enumerate(settings.list_weights):
                yield self.clusters[..., turned, place], np.float32(weight) * of_list
