"""The log of the synthetic world: who asks when, what they are shown, and what they do about it.

Requests come in blocks, each with its own random numbers: neither the number of threads nor how
many blocks are written together changes a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.synthetic import truth
from candidfeed.data.synthetic.settings import EVENTS, PILOT, START
from candidfeed.data.synthetic.world import World
from candidfeed.data.tables import TIME

SHOWN, FEEDBACK = "impression", ("click", "like", "hide")
KINDS = (SHOWN, *FEEDBACK)
POSITIVE = ("click", "like")
BLOCK_REQUESTS = 4_096
_PILOT_BLOCKS, _PILOT_REQUESTS = 8, 512
_DAY_MS = 86_400_000
_LONGEST_DELAY_S = 30.0
_TINY = np.float32(1e-9)

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Slates:
    """Requests, their slates and the feedback; slot-major, [slate_length, n_requests].

    Attributes:
        tau: when each request came, as a share of the span, float64 [n_requests].
        user: int32 [n_requests].
        item: int32.
        shown: False where the slot's item stood above already: the slot stays empty.
        clicked, liked, hidden: what the user did.
        delay: how long until they did it, from 0 (at once) to 1.
    """

    tau: NDArray[np.float64]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    shown: Bools
    clicked: Bools
    liked: Bools
    hidden: Bools
    delay: Floats


@dataclass(frozen=True)
class EventSource:
    """Draws any part of the log.

    Attributes:
        n_requests: how many requests the span holds, on average.
    """

    world: World
    lots: truth.Lots
    n_requests: int

    @property
    def n_blocks(self) -> int:
        """Blocks that are likely to hold all of the log."""
        return -(-self.n_requests // BLOCK_REQUESTS)

    @classmethod
    def of(cls, world: World) -> "EventSource":
        """So many requests that the log's rows fill the span."""
        lots = truth.Lots(world)
        rows = 0
        for block in range(_PILOT_BLOCKS):
            rng = world.settings.rng(PILOT, block)
            tau = (block + rng.random(_PILOT_REQUESTS)) / _PILOT_BLOCKS
            rows += int(_n_rows(draw_slates(world, lots, tau, rng=rng)).sum())
        a_request = rows / (_PILOT_BLOCKS * _PILOT_REQUESTS)
        return cls(world, lots, max(round(world.settings.n_events / a_request), 1))

    def draw(self, blocks: range) -> pl.DataFrame:
        """The rows of these blocks, by request, position and what came first."""
        drawn = [self._draw_block(block) for block in blocks]
        columns = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
        return pl.DataFrame(columns).with_columns(
            pl.Series("kind", KINDS, dtype=pl.Enum(KINDS)).gather(
                columns["kind"].astype(np.uint32)
            ),
            pl.col("timestamp").cast(TIME),
        )

    def _draw_block(self, block: int) -> Mapping[str, NDArray]:
        rng = self.world.settings.rng(EVENTS, block)
        request = block * BLOCK_REQUESTS + np.arange(BLOCK_REQUESTS)
        tau = (request + rng.random(BLOCK_REQUESTS)) / self.n_requests
        slates = draw_slates(self.world, self.lots, tau, rng=rng)
        return _to_rows(slates, request, self.world.settings.span_days)


def draw_slates(
    world: World, lots: truth.Lots, tau: NDArray[np.float64], *, rng: np.random.Generator
) -> Slates:
    """One slate and its feedback for each time, given as a share of the span and ascending."""
    settings, users, items = world.settings, world.users, world.items
    tick = world.tick_of(tau)
    user = lots.user[(rng.random(len(tau)) * lots.user_end[tick]).astype(np.int64)]
    shift = truth.taste_shift(users.drift[user], tau)
    item = _draw_items(lots, user, shift, tick, rng)
    taste = truth.taste_at(users.taste[user], shift)
    affinity = np.stack([np.einsum("rd,rd->r", taste, items.vector[slot]) for slot in item])
    quality, clickbait = items.quality[item], items.clickbait[item]
    age = truth.novelty(settings, tick - items.tick[item])
    appeal = quality + clickbait + age + users.generosity[user]
    shown = ~_stood_above(item)
    drawn = rng.random(item.shape, dtype=np.float32)
    looked = truth.examined(settings)[:, None]
    clicked = shown & (drawn < looked * truth.p_click(settings, affinity, appeal))
    passed_over = shown & (drawn < looked) & ~clicked
    drawn = rng.random(item.shape, dtype=np.float32)
    return Slates(
        tau=tau,
        user=user,
        item=item,
        shown=shown,
        clicked=clicked,
        liked=clicked & (drawn < truth.p_like(settings, affinity, quality, clickbait)),
        hidden=passed_over & (drawn < truth.p_hide(settings, affinity, clickbait)),
        delay=rng.random(item.shape, dtype=np.float32),
    )


def _draw_items(
    lots: truth.Lots,
    user: NDArray[np.int32],
    shift: Floats,
    tick: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """The item of each slot, int32 [slate_length, n_requests]; one may come more than once."""
    settings = lots.world.settings
    shape = (settings.slate_length, len(user))
    drawn = rng.random(shape, dtype=np.float32)
    other_share = truth.other_share(settings)[:, None]
    by_taste = drawn >= other_share
    # What is left of one random number, once it has decided, is as random as a new one.
    rest = (drawn - other_share) / (1 - other_share)
    cluster = _draw_clusters(lots.world, user, shift, np.maximum(rest, 0))
    source = _place(drawn / other_share, settings.source_shares)
    start, end = lots.cluster_start[cluster], lots.cluster_end[tick, cluster]
    # Where nothing of the cluster is out yet, something popular is shown.
    by_taste &= start < end
    start = np.where(by_taste, start, lots.other_start[source, tick])
    end = np.where(by_taste, end, lots.other_end[source, tick])
    return lots.item[start + (rng.random(shape) * (end - start)).astype(np.int64)]


def _draw_clusters(
    world: World, user: NDArray[np.int32], shift: Floats, drawn: Floats
) -> NDArray[np.uint16]:
    """A cluster of one of the user's lists for each number in [0, 1), of the same shape."""
    turned = drawn < shift
    stayed = np.maximum(1 - shift, _TINY)
    rest = np.where(turned, drawn / np.maximum(shift, _TINY), (drawn - shift) / stayed)
    weights = world.settings.list_weights
    place = _place(rest, weights) + turned * len(weights)
    known = world.users.clusters[user].ravel()
    return known[np.arange(len(user)) * (2 * len(weights)) + place]


def _place(drawn: Floats, shares: tuple[float, ...]) -> NDArray[np.int8]:
    """Which of the shares each number in [0, 1) falls into."""
    place = np.zeros(drawn.shape, dtype=np.int8)
    for edge in np.cumsum(shares)[:-1]:
        place += drawn >= np.float32(edge)
    return place


def _stood_above(item: NDArray[np.int32]) -> Bools:
    """Where a slot's item stands in a slot above it, bool of the same shape."""
    stood = np.zeros(item.shape, dtype=bool)
    for slot in range(1, len(item)):
        for above in range(slot):
            stood[slot] |= item[slot] == item[above]
    return stood


def _n_rows(slates: Slates) -> NDArray[np.int8]:
    """Rows of the log for each slot: the impression, and each thing done."""
    done = slates.clicked.astype(np.int8) + slates.liked + slates.hidden
    return done + slates.shown


def _to_rows(slates: Slates, request: NDArray[np.int64], span_days: int) -> dict[str, NDArray]:
    """The columns of the log, in the order of request, position and kind."""
    n_rows = _n_rows(slates).T.ravel()
    slot = np.repeat(np.arange(n_rows.size), n_rows)
    first = np.cumsum(n_rows, dtype=np.int64) - n_rows
    nth = np.arange(len(slot)) - first[slot]
    clicked = slates.clicked.T.ravel()[slot]
    kind = np.where(nth == 0, 0, np.where(clicked, nth, 3)).astype(np.uint8)
    of_slate, position = np.divmod(slot, len(slates.item))
    wait_ms = (_LONGEST_DELAY_S * 1000 * slates.delay.T.ravel()[slot]).astype(np.int64) + 1_000
    moment_ms = np.floor(slates.tau * span_days * _DAY_MS).astype(np.int64)[of_slate]
    # The microseconds tell requests apart: no event of one user, item, kind and time comes twice.
    moment_us = (moment_ms + wait_ms * np.minimum(nth, 2)) * 1_000 + request[of_slate] % 1_000
    return {
        "request_id": request[of_slate],
        "position": (position + 1).astype(np.uint8),
        "user_id": slates.user[of_slate],
        "item_id": slates.item.T.ravel()[slot],
        "kind": kind,
        "timestamp": moment_us + int(START.timestamp() * 1e6),
    }
