"""A synthetic world: people whose tastes are known, and a catalogue that grows.

docs/synthetic.md has the generative model as formulas.
"""

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.synthetic.settings import (
    AGES,
    COUNTRIES,
    GENDERS,
    ITEMS,
    USERS,
    WorldSettings,
)
from candidfeed.errors import ConfigError

_BYTES_A_USER, _BYTES_AN_ITEM = 450, 550
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Users:
    """Aligned columns, one entry a user, in the order in which they joined.

    Attributes:
        tick: when each joined; before 0 where they were there at the start, int32 [n].
        tickets: how often each asks for a slate, as tickets of a lottery >= 1, int32 [n].
        clusters: what each likes at the start and what their taste turns to, uint16 [n, 2, 3].
        taste: the same as vectors of length 1, float32 [n, 2, n_factors].
        drift: share of the taste that has turned when the span ends, float32 [n].
        generosity: added to the click logit, float32 [n].
        age_group, gender, country: places in AGES, GENDERS and COUNTRIES, uint8 [n].
    """

    tick: NDArray[np.int32]
    tickets: NDArray[np.int32]
    clusters: NDArray[np.uint16]
    taste: NDArray[np.float32]
    drift: NDArray[np.float32]
    generosity: NDArray[np.float32]
    age_group: NDArray[np.uint8]
    gender: NDArray[np.uint8]
    country: NDArray[np.uint8]


@dataclass(frozen=True)
class Items:
    """Aligned columns, one entry an item, in the order in which they came out.

    Attributes:
        tick: when each came out; 0 or before where it was there at the start, int32 [n].
        tickets: popularity, as tickets of a lottery >= 1, int32 [n].
        cluster: uint16 [n].
        vector: of length 1, float32 [n, n_factors].
        quality: raises clicks, likes and popularity, float32 [n].
        clickbait: raises clicks and hides, lowers likes, float32 [n].
    """

    tick: NDArray[np.int32]
    tickets: NDArray[np.int32]
    cluster: NDArray[np.uint16]
    vector: NDArray[np.float32]
    quality: NDArray[np.float32]
    clickbait: NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """Everything that is true; what follows from it is worked out once it is asked for."""

    settings: WorldSettings
    users: Users
    items: Items

    def tick_of(self, tau: NDArray[np.float64]) -> NDArray[np.int64]:
        """The tick of a time that is given as a share of the span; beyond it the nearest one."""
        n_ticks = self.settings.n_ticks
        return np.clip(np.floor(tau * n_ticks), 0, n_ticks - 1).astype(np.int64)

    @cached_property
    def n_users_at(self) -> NDArray[np.int64]:
        """Users who have joined by each tick, int64 [n_ticks]."""
        return np.searchsorted(self.users.tick, np.arange(self.settings.n_ticks), side="right")

    @cached_property
    def n_items_at(self) -> NDArray[np.int64]:
        """Items that are out by each tick, int64 [n_ticks]."""
        return np.searchsorted(self.items.tick, np.arange(self.settings.n_ticks), side="right")

    @cached_property
    def first_fresh_at(self) -> NDArray[np.int64]:
        """The first of the items that are fresh at each tick; at least the newest one is."""
        window = round(self.settings.fresh_days * self.settings.ticks_per_day)
        oldest = np.arange(self.settings.n_ticks) - window
        first = np.searchsorted(self.items.tick, oldest, side="right")
        return np.minimum(first, self.n_items_at - 1)


def make_world(settings: WorldSettings) -> World:
    """Draw who and what there is; one seed gives one world.

    Raises:
        ConfigError: it would not fit into this machine's memory.
    """
    _check_memory(settings)
    centres = _unit(_normal(settings.rng(USERS, 0), (settings.n_clusters, settings.n_factors)))
    return World(settings, _make_users(settings, centres), _make_items(settings, centres))


def _check_memory(settings: WorldSettings) -> None:
    needed = settings.n_users * _BYTES_A_USER + settings.n_items * _BYTES_AN_ITEM
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > _MEMORY_SHARE * there:
        raise ConfigError(
            f"{settings.n_users:,} users and {settings.n_items:,} items need about "
            f"{needed / 2**30:.1f} GiB of memory, this machine has {there / 2**30:.1f}; take fewer"
        )


def _make_users(settings: WorldSettings, centres: NDArray[np.float32]) -> Users:
    n, rng = settings.n_users, settings.rng(USERS, 1)
    age = rng.choice(len(AGES) - 1, n, p=_zipf(len(AGES) - 1, 0.3)).astype(np.uint8)
    gender = rng.choice(len(GENDERS), n, p=(0.49, 0.49, 0.02)).astype(np.uint8)
    country = rng.choice(len(COUNTRIES), n, p=_zipf(len(COUNTRIES), 0.8)).astype(np.uint8)
    group = np.ravel_multi_index((age, gender, country), _group_shape())
    clusters = _draw_clusters(settings, group, rng)
    return Users(
        tick=_arrivals(n, settings.users_at_start, settings),
        tickets=_tickets(rng.random(n, dtype=np.float32), settings.activity_exponent, settings),
        clusters=clusters,
        taste=_tastes(settings, clusters, centres, rng),
        drift=(rng.random(n, dtype=np.float32) * np.float32(settings.drift_most)),
        generosity=_normal(rng, (n,), settings.generosity_spread),
        age_group=age,
        gender=gender,
        country=country,
    )


def _make_items(settings: WorldSettings, centres: NDArray[np.float32]) -> Items:
    n, rng = settings.n_items, settings.rng(ITEMS, 0)
    shares = _zipf(settings.n_clusters, settings.cluster_exponent)
    cluster = rng.choice(settings.n_clusters, n, p=shares).astype(np.uint16)
    noise = _normal(rng, (n, settings.n_factors), settings.item_spread / settings.n_factors**0.5)
    quality = _normal(rng, (n,), settings.quality_spread)
    known = settings.quality_in_popularity
    chance = _normal(rng, (n,), settings.quality_spread * (1 - known**2) ** 0.5)
    return Items(
        tick=_arrivals(n, settings.items_at_start, settings),
        tickets=_tickets(-known * quality - chance, settings.popularity_exponent, settings),
        cluster=cluster,
        vector=_unit(centres[cluster] + noise),
        quality=quality,
        clickbait=_normal(rng, (n,), settings.clickbait_spread),
    )


def _group_shape() -> tuple[int, int, int]:
    return len(AGES) - 1, len(GENDERS), len(COUNTRIES)


def _draw_clusters(
    settings: WorldSettings, group: NDArray[np.integer], rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Each user's two lists of clusters, uint16 [n_users, 2, 3], as people of their group draw."""
    n_clusters = settings.n_clusters
    log_share = np.log(_zipf(n_clusters, settings.cluster_exponent))
    for axis, size in enumerate(_group_shape()):
        tilt = rng.standard_normal((size, n_clusters)) * settings.group_spread
        shape = [1, 1, 1, n_clusters]
        shape[axis] = size
        log_share = log_share + tilt.reshape(shape)
    up_to = np.exp(log_share.reshape(-1, n_clusters)).cumsum(axis=1)
    up_to /= up_to[:, -1:]
    # Group g's clusters stand between g and g + 1, so that one search serves all groups.
    line = (up_to + np.arange(len(up_to))[:, None]).ravel()
    drawn = rng.random((len(group), 2 * len(settings.list_weights)))
    drawn += group[:, None]
    place = np.searchsorted(line, drawn, side="right") - group[:, None] * n_clusters
    clusters = np.minimum(place, n_clusters - 1).astype(np.uint16)
    return clusters.reshape(len(group), 2, len(settings.list_weights))


def _tastes(
    settings: WorldSettings,
    clusters: NDArray[np.uint16],
    centres: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    shape = (*clusters.shape[:2], settings.n_factors)
    taste = _normal(rng, shape, settings.user_spread / settings.n_factors**0.5)
    for place, weight in enumerate(settings.list_weights):
        taste += np.float32(weight) * centres[clusters[:, :, place]]
    return _unit(taste)


def _arrivals(n: int, share_at_start: float, settings: WorldSettings) -> NDArray[np.int32]:
    """Ticks in ascending order: some before the span, evenly, the others over it."""
    place = (np.arange(n) + 0.5) / n
    before = (place / share_at_start - 1) * settings.back_days * settings.ticks_per_day
    within = (place - share_at_start) / (1 - share_at_start) * settings.n_ticks
    return np.floor(np.where(place <= share_at_start, before, within)).astype(np.int32)


def _tickets(
    order: NDArray[np.float32], exponent: float, settings: WorldSettings
) -> NDArray[np.int32]:
    """A power law of the rank (Zipf-Mandelbrot), in whole tickets; the lowest `order` has most."""
    n, offset = len(order), settings.rank_offset
    tickets = np.empty(n, dtype=np.int32)
    by_rank = ((n + offset) / (np.arange(1, n + 1) + offset)) ** exponent
    tickets[np.argsort(order, kind="stable")] = np.rint(by_rank)
    return tickets


def _zipf(n: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, n + 1) ** -exponent
    return weights / weights.sum()


def _normal(
    rng: np.random.Generator, shape: tuple[int, ...], spread: float = 1.0
) -> NDArray[np.float32]:
    drawn = rng.standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(spread)
    return drawn


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same directions, of length 1; written into what is given."""
    vectors /= np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    return vectors
