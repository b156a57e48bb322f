"""A synthetic world on disk: a folder that is whole or not there.

    DIR/candidfeed.toml         what the columns mean: DIR is a DATASET of every command
    DIR/world.json              every parameter, and what was counted
    DIR/events/part-*.parquet   the log
    DIR/users.parquet, DIR/items.parquet
    DIR/oracle/*.npy            what is true, read by `oracle.Oracle.open`

It is written into a hidden folder beside DIR and takes its name once all is on disk.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from candidfeed import __version__
from candidfeed.config import FOLDER_CONFIG
from candidfeed.data.interactions import Interactions
from candidfeed.data.synthetic.events import KINDS, POSITIVE, EventSource
from candidfeed.data.synthetic.folder import beside, flush, refuse_foreign, require_disk, swap
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.tables import (
    CONFIG,
    EVENTS_FOLDER,
    ITEMS_FILE,
    USERS_FILE,
    item_table,
    user_table,
)
from candidfeed.data.synthetic.world import Items, Users, World, make_world
from candidfeed.errors import ConfigError, DataError

WORLD_FILE, ORACLE_FOLDER = "world.json", "oracle"
FORMAT = 1
PART_BLOCKS = 24  # about a million rows
_MOST_THREADS = 8
_DISK_BYTES = {"n_events": 8, "n_users": 180, "n_items": 110}  # a row of each, measured
_ENTRIES = {FOLDER_CONFIG, WORLD_FILE, ORACLE_FOLDER, EVENTS_FOLDER, USERS_FILE, ITEMS_FILE}

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Written:
    """What `write_world` made.

    Attributes:
        kinds: events by kind.
        n_parts: files of the log.
        size_bytes: of all files together.
    """

    folder: Path
    settings: WorldSettings
    kinds: dict[str, int]
    n_parts: int
    size_bytes: int


def write_world(
    settings: WorldSettings,
    folder: Path,
    *,
    n_threads: int | None = None,
    progress: Progress = lambda _n_events: None,
) -> Written:
    """Draw a world and its log; the same settings make the same files, on any number of threads.

    A world that stood in the folder stays until the new one is whole, and is then removed.

    Args:
        folder: not there yet, empty, or a world.
        n_threads: one for each core, at most 8, where it is None; each holds two million rows.
        progress: is told how many events are drawn, again and again.

    Raises:
        ConfigError: the folder holds something else, another process writes to it, or the world
            would not fit into memory or on the disk.
        OSError: it can't be written, or the disk is full nevertheless.
    """
    folder = Path(os.path.realpath(folder))
    refuse_foreign(folder, ours=_ENTRIES, mark=WORLD_FILE)
    require_disk(folder, needed=sum(n * getattr(settings, of) for of, n in _DISK_BYTES.items()))
    world = make_world(settings)
    with beside(folder) as new:
        _write_arrays(new / ORACLE_FOLDER, world)
        _write_table(user_table(world), new / USERS_FILE)
        _write_table(item_table(world), new / ITEMS_FILE)
        source = EventSource.of(world)
        (new / EVENTS_FOLDER).mkdir()
        kinds, n_parts = _write_events(source, new / EVENTS_FOLDER, n_threads, progress)
        _write_text(new / FOLDER_CONFIG, CONFIG)
        told = {"n_requests": source.n_requests, "n_clusters": settings.n_clusters, "kinds": kinds}
        written_by = {"format": FORMAT, "candidfeed_version": __version__}
        described = {**written_by, "settings": asdict(settings), **told}
        _write_text(new / WORLD_FILE, json.dumps(described, indent=2) + "\n")
        size_bytes = sum(one.stat().st_size for one in new.rglob("*") if one.is_file())
        for one in (new / ORACLE_FOLDER, new / EVENTS_FOLDER, new):
            flush(one)
        swap(new, folder)
    return Written(folder, settings, kinds, n_parts, size_bytes)


def read_world(folder: Path) -> World:
    """What is true of the world in this folder; its arrays stay on disk and are mapped.

    Raises:
        DataError: the folder holds no world, or one that is damaged or of another format.
    """
    settings = _read_settings(folder)
    users = _read_arrays(folder, Users, settings.n_users)
    return World(settings, users, _read_arrays(folder, Items, settings.n_items))


def read_positives(folder: Path) -> Interactions:
    """The log's clicks and likes, in its order; a row is the id. Quicker than `load_dataset`.

    Raises:
        DataError: the folder holds no world.
    """
    settings = _read_settings(folder)
    events = pl.scan_parquet(sorted((folder / EVENTS_FOLDER).glob("*.parquet")))
    columns = ("user_id", "item_id", pl.col("timestamp").dt.epoch("us"))
    kept = events.filter(pl.col("kind").is_in(POSITIVE)).select(columns).collect()
    return Interactions(
        user=kept["user_id"].to_numpy(),
        item=kept["item_id"].to_numpy(),
        value=np.full(len(kept), np.nan, dtype=np.float32),
        time_s=kept["timestamp"].to_numpy() / 1e6,
        n_users=settings.n_users,
        n_items=settings.n_items,
    )


def _write_events(
    source: EventSource, folder: Path, n_threads: int | None, progress: Progress
) -> tuple[dict[str, int], int]:
    """Write the parts; events by kind, and how many parts there are."""
    n_left = source.world.settings.n_events
    n_by_kind = np.zeros(len(KINDS), dtype=np.int64)
    n_threads = n_threads or min(os.cpu_count() or 1, _MOST_THREADS)
    pool = ThreadPoolExecutor(n_threads)
    try:
        writing: list[Future[None]] = []
        for number, drawn in enumerate(_parts(source, pool, n_ahead=n_threads)):
            part = drawn.head(n_left)
            writing.append(pool.submit(_write_table, part, folder / f"part-{number:05d}.parquet"))
            n_by_kind += np.bincount(part["kind"].to_physical().to_numpy(), minlength=len(KINDS))
            n_left -= len(part)
            progress(source.world.settings.n_events - n_left)
            if not n_left:
                break
        for one in writing:
            one.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return dict(zip(KINDS, n_by_kind.tolist(), strict=True)), len(writing)


def _parts(
    source: EventSource, pool: ThreadPoolExecutor, *, n_ahead: int
) -> Iterator[pl.DataFrame]:
    """The log without end, part by part; a few are drawn ahead while they are sure to be needed."""
    part_blocks = min(PART_BLOCKS, source.n_blocks)
    ahead: deque[Future[pl.DataFrame]] = deque()
    for first in count(step=part_blocks):
        ahead.append(pool.submit(source.draw, range(first, first + part_blocks)))
        while len(ahead) > (n_ahead if first + 2 * part_blocks <= source.n_blocks else 0):
            yield ahead.popleft().result()


def _write_table(table: pl.DataFrame, path: Path) -> None:
    table.write_parquet(path, statistics=False)
    flush(path)


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    flush(path)


def _write_arrays(folder: Path, world: World) -> None:
    folder.mkdir()
    for group in (world.users, world.items):
        for field in fields(group):
            path = folder / _array_name(type(group), field.name)
            np.save(path, getattr(group, field.name), allow_pickle=False)
            flush(path)


def _read_arrays(folder: Path, group: type[Any], n: int) -> Any:
    arrays = {}
    for field in fields(group):
        path = folder / ORACLE_FOLDER / _array_name(group, field.name)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        if len(array) != n:
            raise _damaged(path, f"{len(array):,} rows, not {n:,}")
        arrays[field.name] = array
    return group(**arrays)


def _array_name(group: type[Any], field: str) -> str:
    return f"{group.__name__.lower()}-{field}.npy"


def _read_settings(folder: Path) -> WorldSettings:
    path = folder / WORLD_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise DataError(
                f"{path}: is of format {described['format']}, this version reads {FORMAT}; "
                "make the world anew with `candidfeed synth`"
            )
        settings = described["settings"]
        listed: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in settings.items()
        }
        return WorldSettings(**listed)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: holds no synthetic world (no file {WORLD_FILE!r}); make one with "
            f"`candidfeed synth -o {folder}`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: is not what was written ({reason}); make the world anew")
