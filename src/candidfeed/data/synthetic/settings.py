"""The sizes and constants of a synthetic world (docs/synthetic.md)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isqrt

import numpy as np

from candidfeed.errors import ConfigError

START = datetime(2024, 1, 1, tzinfo=UTC)
AGES = (13, 18, 25, 35, 45, 55, 65, 81)  # the ends of the age groups, in years
GENDERS = ("f", "m", "x")
COUNTRIES = ("AT", "BR", "CH", "DE", "ES", "FR", "IN", "IT", "JP", "NG", "PL", "US")
# Which random numbers a generator is for: each use has a stream of its own.
USERS, ITEMS, EVENTS, PILOT, TABLES = range(5)
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class WorldSettings:
    """The sizes and every constant of the generative model; docs/synthetic.md names each.

    Attributes:
        n_events: rows of the log, of all kinds together.
        list_weights: how a user's interest is spread over the clusters of one of their two lists.
        fresh_days: how long the fresh source takes an item for new.
        other_share: share of the slots that sources other than taste fill, at the first position
            and at the last.
        source_shares: popular, fresh and explored items among those slots.
        examine_exponent: a position r is looked at with probability r ** -examine_exponent.
    """

    n_users: int
    n_items: int
    n_events: int
    seed: int
    n_factors: int = 16
    span_days: int = 90
    ticks_per_day: int = 4
    back_days: int = 360
    users_at_start: float = 0.6
    items_at_start: float = 0.5
    cluster_exponent: float = 0.6
    group_spread: float = 0.8
    list_weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    user_spread: float = 0.35
    item_spread: float = 0.7
    drift_most: float = 0.8
    quality_spread: float = 0.5
    clickbait_spread: float = 0.3
    generosity_spread: float = 0.5
    popularity_exponent: float = 0.8
    activity_exponent: float = 0.6
    rank_offset: float = 10.0
    quality_in_popularity: float = 0.6
    fresh_days: float = 7.0
    slate_length: int = 8
    other_share: tuple[float, float] = (0.3, 0.6)
    source_shares: tuple[float, ...] = (0.5, 0.25, 0.25)
    examine_exponent: float = 0.4
    click: tuple[float, float] = (-1.6, 4.0)
    like: tuple[float, float] = (-2.6, 2.5)
    hide: tuple[float, float] = (-3.5, -2.0)
    age_gain: float = 0.5
    age_half_life_days: float = 14.0

    def __post_init__(self) -> None:
        for name in ("n_users", "n_items", "n_events"):
            n = getattr(self, name)
            word = name.removeprefix("n_")
            if n < 1:
                raise ConfigError(f"{word} should be 1 or more, but {n} came")
            if word != "events" and n > _LARGEST:
                raise ConfigError(f"{word} should be {_LARGEST:,} or fewer, but {n:,} came")
        if self.seed < 0:
            raise ConfigError(f"seed should be 0 or more, but {self.seed} came")

    @property
    def n_clusters(self) -> int:
        return min(max(isqrt(self.n_items) // 2, 1), 2_000)

    @property
    def n_ticks(self) -> int:
        """The catalogue and the circle of users are renewed at each tick, and not between."""
        return self.span_days * self.ticks_per_day

    def rng(self, *stream: int) -> np.random.Generator:
        """The generator of one use of random numbers, the same however it is reached."""
        seeds = np.random.SeedSequence(self.seed, spawn_key=stream)
        return np.random.Generator(np.random.SFC64(seeds))
