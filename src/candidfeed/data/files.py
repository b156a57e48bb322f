"""A person's own log, users and items, through one TOML file (docs/data.md)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import polars as pl
import polars.selectors as cs

from candidfeed.config import (
    FOLDER_CONFIG,
    EventsConfig,
    FeatureConfig,
    ItemsConfig,
    LabelConfig,
    UsersConfig,
    load_config,
    suggest,
)
from candidfeed.data.checks import check_canonical, repeated_events, repeated_ids, sift
from candidfeed.data.columns import (
    Column,
    Fault,
    Parsed,
    parse_ids,
    parse_names,
    parse_numbers,
    parse_positions,
    show,
)
from candidfeed.data.delimited import ROW
from candidfeed.data.feature_columns import parse_feature
from candidfeed.data.sources import FILE, Wanted, read_source
from candidfeed.data.tables import EVENT_COLUMNS, TIME, Dataset, Feature, Label
from candidfeed.data.times import parse_times
from candidfeed.errors import ConfigError, DataError

RATING = "rating"
INTERACTION = "interaction"
CLOCK_SKEW = timedelta(days=1)


@dataclass(frozen=True)
class _Rows:
    """The usable rows of one source, the others, and how many there were.

    `seen` has the ids of all rows, usable or not.
    """

    source: str
    seen: pl.DataFrame
    table: pl.DataFrame
    quarantine: pl.DataFrame
    n_read: int


def read_files(path: Path, *, now: datetime) -> Dataset:
    """Read what one TOML file describes.

    Args:
        path: the TOML file.
        now: events later than a day after it go to quarantine.

    Raises:
        ConfigError: the TOML file is wrong.
        DataError: a source is wrong as a whole; single rows that are wrong go to `quarantine`.
    """
    config = load_config(path)
    folder = path.parent
    events = _read_events(config.events, folder, latest=now + CLOCK_SKEW)
    users = _read_users(config.users, folder) if config.users else None
    items = _read_items(config.items, folder) if config.items else None
    positive = _positive_kinds(config.events, events.table, path)
    _check_overlap(events, users, "user_id")
    _check_overlap(events, items, "item_id")
    log, user_table = _joined(events.table, users, "user_id")
    log, item_table = _joined(log, items, "item_id")
    quarantines = [rows.quarantine for rows in (events, users, items) if rows is not None]
    return check_canonical(
        Dataset(
            name=config.name or _name_of(path),
            events=log,
            users=user_table,
            items=_with_titles(item_table),
            user_features=_features(config.users),
            item_features=_features(config.items),
            quarantine=pl.concat(quarantines),
            rows_read=events.n_read,
            max_bad_share=config.events.max_bad_share,
            positive_kinds=positive,
            like_at=config.events.like_at,
            shown_kind=config.events.shown,
            labels=_labels(config.labels),
            attribution_s=config.events.attribution_s,
            kinds=config.events.kinds or (),
            values=(config.events.value_min, config.events.value_max),
        )
    )


def _name_of(path: Path) -> str:
    return path.resolve().parent.name if path.name == FOLDER_CONFIG else path.stem


def _read_events(config: EventsConfig, folder: Path, *, latest: datetime) -> _Rows:
    """The canonical columns of the events, in the order of the source."""
    keys = (*EVENT_COLUMNS, "position")
    named = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    wanted = [Wanted(key, column, f"events.{key}") for key, column in named.items()]
    raw = read_source(config.path, folder=folder, wanted=wanted)
    parsed = _parse_events(config, {one.role: Column.of(raw, one) for one in wanted}, latest)
    absent = {
        "kind": pl.lit(RATING if config.like_at is not None else INTERACTION),
        "value": pl.lit(None, dtype=pl.Float32),
        "timestamp": pl.lit(None, dtype=TIME),
    }
    table = raw.select(FILE, ROW).with_columns(
        parsed[key].values.alias(key) if key in parsed else absent[key].alias(key)
        for key in (*EVENT_COLUMNS, *(["position"] if "position" in parsed else []))
    )
    return _usable(table, parsed, repeated_events, source=config.path)


def _parse_events(
    config: EventsConfig, columns: dict[str, Column], latest: datetime
) -> dict[str, Parsed]:
    parsed = {key: parse_ids(columns[key]) for key in ("user_id", "item_id")}
    if "kind" in columns:
        parsed["kind"] = parse_names(columns["kind"], allowed=config.kinds)
    if "value" in columns:
        # Where a log has several kinds, some of them carry no rating.
        parsed["value"] = parse_numbers(
            columns["value"],
            low=config.value_min,
            high=config.value_max,
            required=config.like_at is not None and config.kind is None,
        )
    if "timestamp" in columns:
        parsed["timestamp"] = parse_times(
            columns["timestamp"],
            unit=config.timestamp_unit,
            timezone=config.timezone,
            latest=latest,
        )
    if "position" in columns:
        parsed["position"] = parse_positions(columns["position"])
    return parsed


def _read_users(config: UsersConfig, folder: Path) -> _Rows:
    key = Wanted("user_id", config.user_id, "users.user_id")
    return _read_table(config.path, folder, [key], config.features)


def _read_items(config: ItemsConfig, folder: Path) -> _Rows:
    wanted = [Wanted("item_id", config.item_id, "items.item_id")]
    if config.title is not None:
        wanted.append(Wanted("title", config.title, "items.title"))
    return _read_table(config.path, folder, wanted, config.features)


def _read_table(
    pattern: str, folder: Path, known: list[Wanted], features: dict[str, FeatureConfig]
) -> _Rows:
    """One row an id; `known` is the id's column and, for items, the title's."""
    table = known[0].key.partition(".")[0]
    wanted = list(known)
    for name, feature in features.items():
        wanted.append(Wanted(name, feature.column or name, f"{table}.features.{name}"))
    raw = read_source(pattern, folder=folder, wanted=wanted)
    parsed = {}
    for one in wanted:
        column = Column.of(raw, one)
        is_id = one.role == known[0].role
        kind = features.get(one.role, FeatureConfig(kind="category"))
        parsed[one.role] = parse_ids(column) if is_id else parse_feature(column, kind)
    rows = raw.select(FILE, ROW).with_columns(
        one.values.alias(role) for role, one in parsed.items()
    )
    return _usable(rows, parsed, partial(repeated_ids, key=known[0].role), source=pattern)


def _usable(
    rows: pl.DataFrame,
    parsed: dict[str, Parsed],
    repeated: Callable[[pl.DataFrame], tuple[Fault, ...]],
    *,
    source: str,
) -> _Rows:
    """Remove what could not be read, then what stands there more than once."""
    keep, unread = sift(rows.select(FILE, ROW), [f for one in parsed.values() for f in one.faults])
    usable = rows.filter(keep)
    once, again = sift(usable.select(FILE, ROW), repeated(usable.drop(FILE, ROW)))
    quarantine = pl.concat([unread, again]).sort("file", "row")
    seen = rows.select(cs.by_name("user_id", "item_id", require_all=False))
    return _Rows(source, seen, usable.filter(once).drop(FILE, ROW), quarantine, len(rows))


def _positive_kinds(config: EventsConfig, events: pl.DataFrame, path: Path) -> tuple[str, ...]:
    """What the file names, else every kind that it allows, else every kind of the log."""
    found = tuple(events["kind"].unique().sort())
    known = config.kinds or found
    if config.positive is None:
        return tuple(name for name in known if name != config.shown)
    for name in config.positive:
        if name not in known and found:
            raise ConfigError(
                f"{path}: events.positive: {name!r} is no kind of the log{suggest(name, known)}"
            )
    return config.positive


def _check_overlap(events: _Rows, table: _Rows | None, key: str) -> None:
    """Refuse a table that knows none of the log's ids: then some column is not what was said."""
    if table is None:
        return
    logged, listed = (
        one.seen[key].drop_nulls().unique(maintain_order=True) for one in (events, table)
    )
    known = listed.cast(pl.String).is_in(logged.cast(pl.String).implode())
    if len(logged) and len(listed) and not known.any():
        raise DataError(
            f"{table.source}: none of its {key}s is in the log ({show(listed[0])} here, "
            f"{show(logged[0])} there); name the columns that hold the same ids"
        )


def _joined(log: pl.DataFrame, rows: _Rows | None, key: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The log and the table with one id type, and with a row for each id that the log names.

    Where one holds integers and the other text, both become text.
    """
    if rows is None:
        return log, log.select(pl.col(key).unique(maintain_order=True))
    table = rows.table
    if log.schema[key] != table.schema[key]:
        log, table = (frame.with_columns(pl.col(key).cast(pl.String)) for frame in (log, table))
    named = log.select(pl.col(key).unique(maintain_order=True))
    unlisted = named.join(table, on=key, how="anti", maintain_order="left")
    return log, pl.concat([table, unlisted], how="diagonal")


def _features(config: UsersConfig | ItemsConfig | None) -> tuple[Feature, ...]:
    if config is None:
        return ()
    return tuple(
        Feature(name=name, kind=one.kind, sensitive=one.sensitive)
        for name, one in config.features.items()
    )


def _labels(config: Mapping[str, LabelConfig]) -> tuple[Label, ...]:
    return tuple(Label(name, **dict(one)) for name, one in config.items())


def _with_titles(items: pl.DataFrame) -> pl.DataFrame:
    """`title` after the id; the id itself where there is none."""
    given = pl.col("title") if "title" in items.columns else pl.lit(None, dtype=pl.String)
    title = given.fill_null(pl.col("item_id").cast(pl.String)).alias("title")
    return items.select("item_id", title, pl.exclude("item_id", "title"))
