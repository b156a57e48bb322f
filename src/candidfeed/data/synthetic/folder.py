"""A folder that takes its name once it is whole, and never in place of something foreign."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from candidfeed.errors import ConfigError


def refuse_foreign(folder: Path, *, ours: Set[str], mark: str) -> None:
    """Refuse to make a world of a folder that holds something else; nothing is written.

    Args:
        ours: the names of what may stand in the folder.
        mark: the one that stands in a world and nowhere else.

    Raises:
        ConfigError: it is a file, the current folder, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; name a folder for the world")
    if folder == Path.cwd():
        raise ConfigError(f"{folder}: is the current folder; name a folder in it")
    entries = {one.name for one in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(entries - ours) if mark in entries else sorted(entries)
    if foreign:
        raise ConfigError(
            f"{folder}: is not empty and holds something else than a world ({foreign[0]!r}); "
            "nothing was touched, name another folder"
        )


def require_disk(folder: Path, *, needed: int) -> None:
    """Refuse to begin what can't end; the folder need not be there yet.

    Raises:
        ConfigError: fewer bytes are free.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ConfigError(
            f"{folder}: this world needs about {needed / 1e6:,.0f} MB on disk and "
            f"{free / 1e6:,.0f} MB are free; take fewer events, or another disk"
        )


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder beside it, for one process at a time; removed unless it was given a name.

    Raises:
        ConfigError: another process has it.
    """
    new = folder.with_name(f".{folder.name}.candidfeed-unfinished")
    new.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _lock(descriptor, new):
            raise ConfigError(
                f"{folder}: another process is writing a world there; wait until it has ended"
            )
        for left in new.iterdir():  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    """Whether nobody else holds it, and it is still what stands at the path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def swap(new: Path, folder: Path) -> None:
    """Give the new folder its name; what stood there is removed."""
    old = new.with_name(f"{new.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
