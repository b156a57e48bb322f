"""What the log's owner knows of the synthetic world: the tables of users and items.

Their columns are noisy, incomplete shadows of what is true (docs/synthetic.md).
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.synthetic.events import FEEDBACK, KINDS, POSITIVE, SHOWN
from candidfeed.data.synthetic.settings import (
    AGES,
    COUNTRIES,
    GENDERS,
    START,
    TABLES,
    WorldSettings,
)
from candidfeed.data.synthetic.world import World
from candidfeed.data.tables import TIME

EVENTS_FOLDER, USERS_FILE, ITEMS_FILE = "events", "users.parquet", "items.parquet"
_LABELS = "\n".join(f'{kind} = {{ kinds = ["{kind}"] }}' for kind in FEEDBACK)
CONFIG = f"""\
# Written by `candidfeed synth`: what the columns of this world mean.

[events]
path = "{EVENTS_FOLDER}"
user_id = "user_id"
item_id = "item_id"
timestamp = "timestamp"
kind = "kind"
kinds = [{", ".join(f'"{kind}"' for kind in KINDS)}]
positive = [{", ".join(f'"{kind}"' for kind in POSITIVE)}]
shown = "{SHOWN}"
position = "position"

[labels]
{_LABELS}

[users]
path = "{USERS_FILE}"
user_id = "user_id"

[users.features]
age = {{ kind = "bucket", sensitive = true }}
gender = {{ kind = "category", sensitive = true }}
country = {{ kind = "category" }}
interests = {{ kind = "tags" }}
joined = {{ kind = "time" }}

[items]
path = "{ITEMS_FILE}"
item_id = "item_id"
title = "title"

[items.features]
category = {{ kind = "category" }}
tags = {{ kind = "tags" }}
words = {{ kind = "text", column = "title" }}
creator = {{ kind = "category" }}
minutes = {{ kind = "number" }}
published = {{ kind = "time" }}
"""

_CONSONANTS, _VOWELS = "bdfghjklmnprst", "aeiou"
_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
_ADJECTIVES = "amber brave calm dusty early faint green hollow idle jolly keen late mild".split()
_NOUNS = "anchor bridge candle desert engine forest garden harbour island journey kite".split()
_CLUSTERS_A_CATEGORY = 8
_ITEMS_A_CREATOR = 20


def user_table(world: World) -> pl.DataFrame:
    """`user_id`, `age`, `gender`, `country`, `interests` and `joined`."""
    settings, users = world.settings, world.users
    rng = settings.rng(TABLES, 0)
    n = settings.n_users
    least, end = np.array(AGES[:-1])[users.age_group], np.array(AGES[1:])[users.age_group]
    age = least + (rng.random(n) * (end - least)).astype(np.int64)
    declared = [_maybe(_tag(users.clusters[:, 0, place], settings), 0.6, rng) for place in range(3)]
    declared.append(_maybe(_tag(rng.integers(settings.n_clusters, size=n), settings), 0.3, rng))
    return pl.DataFrame(
        {
            "user_id": np.arange(n, dtype=np.int32),
            "age": _maybe(pl.Series(age.astype(np.int8)), 0.95, rng),
            "gender": _maybe(_words(GENDERS, users.gender), 0.97, rng),
            "country": _words(COUNTRIES, users.country),
            "interests": _maybe(_joined(declared, "|"), 0.7, rng),
            "joined": _moments(users.tick, settings, rng),
        }
    )


def item_table(world: World) -> pl.DataFrame:
    """`item_id`, `title`, `category`, `tags`, `creator`, `minutes` and `published`."""
    settings, items = world.settings, world.items
    rng = settings.rng(TABLES, 1)
    n, n_clusters = settings.n_items, settings.n_clusters
    random = [rng.integers(n_clusters, size=n) for _ in range(4)]
    known = np.where(rng.random(n) < 0.95, items.cluster, random[0])
    told = np.where(rng.random(n) < 0.7, items.cluster, random[1])
    title = [
        _words([word.capitalize() for word in _ADJECTIVES], rng.integers(len(_ADJECTIVES), size=n)),
        _tag(told, settings),
        _words(_NOUNS, rng.integers(len(_NOUNS), size=n)),
    ]
    tags = [_maybe(_tag(items.cluster, settings), 0.85, rng)]
    tags += [_maybe(_tag(random[2 + place], settings), 0.4, rng) for place in range(2)]
    minutes = np.exp(1.5 + 0.8 * items.quality + 0.5 * rng.standard_normal(n))
    return pl.DataFrame(
        {
            "item_id": np.arange(n, dtype=np.int32),
            "title": _joined(title, " "),
            "category": _words(_category_names(n_clusters), known // _CLUSTERS_A_CATEGORY),
            "tags": _joined(tags, "|"),
            "creator": _creators(items.cluster, settings, rng),
            "minutes": minutes.astype(np.float32).round(1),
            "published": _moments(items.tick, settings, rng),
        }
    )


def _creators(
    cluster: NDArray[np.uint16], settings: WorldSettings, rng: np.random.Generator
) -> pl.Series:
    """Each makes items of one cluster; a few make most of them."""
    a_cluster = max(settings.n_items // (_ITEMS_A_CREATOR * settings.n_clusters), 1)
    nth = (a_cluster * rng.random(len(cluster)) ** 2).astype(np.int64)
    number = nth * settings.n_clusters + cluster
    return pl.Series(number).cast(pl.String).str.zfill(4).str.replace("^", "creator ")


def _moments(
    tick: NDArray[np.int32], settings: WorldSettings, rng: np.random.Generator
) -> pl.Series:
    """Between the tick from which on they are there and the one before it, to the second."""
    seconds_a_tick = 86_400 // settings.ticks_per_day
    since_s = tick.astype(np.int64) * seconds_a_tick - rng.integers(seconds_a_tick, size=len(tick))
    return pl.Series((since_s + int(START.timestamp())) * 1_000_000).cast(TIME)


def _tag(cluster: NDArray[np.integer], settings: WorldSettings) -> pl.Series:
    """The word that names a cluster."""
    return _words([_name(one) for one in range(settings.n_clusters)], cluster)


def _category_names(n_clusters: int) -> list[str]:
    n_categories = -(-n_clusters // _CLUSTERS_A_CATEGORY)
    return [f"{_name(one)} and {_name(one + n_categories)}" for one in range(n_categories)]


def _name(number: int) -> str:
    """A word of two syllables, another one for each number below 4,900."""
    first, second = divmod(number * 1_871 % len(_SYLLABLES) ** 2, len(_SYLLABLES))
    return _SYLLABLES[first] + _SYLLABLES[second]


def _words(words: Sequence[str], place: NDArray[np.integer]) -> pl.Series:
    return pl.Series(words, dtype=pl.String).gather(place.astype(np.uint32))


def _maybe(values: pl.Series, share: float, rng: np.random.Generator) -> pl.Series:
    """The same with all but about this share of the values missing."""
    kept = pl.Series(rng.random(len(values)) < share)
    return pl.select(pl.when(kept).then(values)).to_series()


def _joined(parts: list[pl.Series], separator: str) -> pl.Series:
    """The parts that are there, as one text; missing where none is."""
    text = pl.select(pl.concat_str(parts, separator=separator, ignore_nulls=True)).to_series()
    return pl.select(pl.when(text != "").then(text)).to_series()
