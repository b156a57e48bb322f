"""Users who were erased, in releases that were built before."""

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from candidfeed.errors import ReleaseError
from candidfeed.release.figures import FIGURES
from candidfeed.release.manifest import generation_number
from candidfeed.release.storage import remove_generations
from candidfeed.store.store import Store

USERS: Final = "users.parquet"
# Shorter ids, and numbers, stand in any bytes.
_TELLING_BYTES: Final = 6


@dataclass(frozen=True)
class Trace:
    """What was looked at for a user, and how often they were found there."""

    place: str
    looked_at: str
    n_found: int


def users_in(generation: Path) -> set[str]:
    """Ids of all users whom a release names, as text.

    Its other files hold them as rows: places in this table.

    Raises:
        ReleaseError: a table can't be read.
    """
    found: set[str] = set()
    for name in (USERS, FIGURES):
        path = generation / name
        try:
            if path.is_file():
                ids = pl.read_parquet(path.read_bytes(), columns=["user_id"])["user_id"]
                found.update(ids.unique().cast(pl.String))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ReleaseError(f"{path}: can't be read ({error})") from error
    return found


def remove_generations_of_erased(
    releases: Path, erased_of: Callable[[Iterable[str]], set[str]]
) -> list[str]:
    """Remove generations that are not in force and hold somebody who was erased; their names.

    Nothing is kept to go back to, then: what a person asked for weighs more. A service that still
    has the files mapped goes on with them until it has swapped.

    Raises:
        ReleaseError: a build is at work, or one can't be read or removed.
        StoreError: the store can't be read.
    """
    return remove_generations(releases, lambda folder: bool(erased_of(users_in(folder))))


def traces_of(user_id: str, *, releases: Path, store: Store, where: str) -> Iterator[Trace]:
    """Wherever a user could be: the store's tables and files, and each release.

    The bytes of files are looked through where the id is text that means something by itself; an
    id that is part of another one is found there too.

    Args:
        where: the store's file, or the URL of its database, whose files are its server's.

    Raises:
        StoreError, ReleaseError: what must be looked at can't be read.
    """
    for table, n_found in store.traces_of(user_id).items():
        yield Trace("store", f"rows of {table}", n_found)
    is_telling = len(user_id.encode()) >= _TELLING_BYTES and not user_id.isdecimal()
    path = Path(where)
    beside = [path.with_name(f"{path.name}{end}") for end in ("", "-wal", "-shm")]
    for file in filter(Path.is_file, beside if is_telling else ()):
        yield Trace("store", f"bytes of {file.name}", _n_times(user_id, file))
    for folder in sorted(filter(Path.is_dir, releases.iterdir())):
        # Also in what a build left that was killed.
        if generation_number(folder.name) is not None or (folder / USERS).is_file():
            yield Trace(folder.name, "tables of users", int(user_id in users_in(folder)))
        if is_telling:
            files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
            n_found = sum(_n_times(user_id, one) for one in files)
            yield Trace(folder.name, f"bytes of {len(files)} files", n_found)


def _n_times(user_id: str, path: Path) -> int:
    """How often the id stands in a file's bytes; the file may be larger than memory."""
    wanted, n_found = user_id.encode(), 0
    with path.open("rb") as file:
        if not path.stat().st_size:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(wanted)
            while at >= 0:
                n_found += 1
                at = content.find(wanted, at + len(wanted))
    return n_found
