"""How a release lies on disk: whole or not at all, and refused where a byte differs.

    DIR/current               one line: the generation in force and the sha256 of its manifest
    DIR/0002-3f9a0c12be45/    that generation: manifest.json and the files that it lists
    DIR/0001-b1946ac92492/    the one before, kept for rollback

A build fills a hidden folder inside DIR, flushes it to disk, gives it its name (a number, and the
first digits of its manifest's sha256), and only then replaces `current`: one rename, so a reader
finds the old release or the new one, and nothing between. The chain of digests `current` ->
manifest.json -> each file is followed before anything else is read.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from candidfeed import __version__
from candidfeed.data.whole_files import flush_folder, replace_file
from candidfeed.errors import ReleaseError
from candidfeed.release.manifest import (
    CHANGED,
    MANIFEST,
    POINTER,
    FileEntry,
    Listing,
    Pointer,
    generation_number,
    is_file_name,
    parse_listing,
    parse_pointer,
    release_id,
)

FileContent: TypeAlias = bytes | Callable[[Path], None]

_UNFINISHED = ".candidfeed-unfinished-"
_TRAINING = ".candidfeed-training"
# Between two pieces a thread waits for its turn with Python's others: in those of `file_digest`, of
# 256 KiB, 500 MB take 19 s beside one that computes.
_PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class OpenedDirectory:
    """A generation whose every file was found to be what was built.

    Attributes:
        path: the folder that holds the files.
        release_id: the folder's name, such as `0002-3f9a0c12be45`.
        candidfeed_version: the version of candidfeed that wrote it.
        manifest: what the build said of itself.
    """

    path: Path
    release_id: str
    candidfeed_version: str
    manifest: dict[str, Any]


def write_directory(
    target: Path, files: Mapping[str, FileContent], manifest: Mapping[str, Any]
) -> OpenedDirectory:
    """Make these files the release at `target`; the one that was there stays until all is on disk.

    Whatever fails, and wherever the process is killed, a release that was there is still there,
    unchanged. The release before this one is kept, older ones are removed.

    Args:
        target: the release's folder: not there yet, empty, or a release.
        files: content by file name, or a function that writes the file at the path it is given.
        manifest: what the build says of itself, as JSON types.

    Returns:
        The release, read back and compared.

    Raises:
        ReleaseError: the folder holds something else, another build is writing it, the disk is
            full, or a file can't be written.
        ValueError: a file name is not a plain one, a function wrote something other than its one
            file, or the manifest holds NaN or an infinity.
    """
    for name in files:
        if not is_file_name(name):
            raise ValueError(f"release: {name!r} can't be the name of a file in a release")
    json.dumps(manifest, allow_nan=False)
    target = Path(target)
    refuse_foreign_folder(target)
    with _new_folders(target), _only_builder(target):
        _remove_leftovers(target)
        previous = _generation_to_keep(target)
        added = _add_generation(target, files, manifest)
        _remove_old_generations(target, keep={added.release_id, previous})
        with _reading(target):
            return _open_generation(target, added)


def read_directory(target: Path) -> OpenedDirectory:
    """The release in force at `target`, once each of its files was compared with what was built.

    Raises:
        ReleaseError: there is no release, or a file is missing, extra, changed, cut short or not a
            plain file, or the release is of a format that this version can't read.
    """
    target = Path(target)
    with _reading(target):
        pointer = _read_pointer(target)
        while True:
            try:
                return _open_generation(target, pointer)
            except (ReleaseError, FileNotFoundError):
                # A build may have replaced the release and removed this generation meanwhile.
                now_in_force = _read_pointer(target)
                if now_in_force == pointer:
                    raise
                pointer = now_in_force


@dataclass(frozen=True)
class Opening:
    """A release that is being opened.

    Attributes:
        pointer: what the pointer held before.
        opened: ends with what `read_directory` gives.
    """

    pointer: bytes
    opened: Future[OpenedDirectory]


def open_ahead(target: Path) -> Opening:
    """Begin with `read_directory` on a thread, while this one imports what reads the files.

    Raises:
        ReleaseError: there is no release.
    """
    pointer = pointer_of(target)
    # Not as a context: its end would wait for the thread.
    pool = ThreadPoolExecutor(1)
    opened = pool.submit(read_directory, target)
    pool.shutdown(wait=False)
    return Opening(pointer, opened)


def read_generation(target: Path, name: str) -> OpenedDirectory:
    """A release that is kept at `target`, in force or not, compared likewise.

    Raises:
        ReleaseError: it is not kept any more, or as in `read_directory`.
    """
    if not is_kept(target, name):
        raise ReleaseError(f"{target}: release {name!r} is not kept here (any more)")
    with _reading(target):
        return _open_generation(target, _sealed_pointer(target / name))


def is_kept(target: Path, name: str) -> bool:
    """Whether there is a release of this name, in force or not; it was not compared."""
    return generation_number(name) is not None and (target / name).is_dir()


def pointer_of(target: Path) -> bytes:
    """What the pointer holds: it differs from before when another release is in force.

    Raises:
        ReleaseError: there is no release.
    """
    with _reading(target):
        return _read_pointer(target).encode()


def in_force_since(target: Path) -> float:
    """When the release in force was put there, by a build or by going back; seconds since 1970.

    Raises:
        ReleaseError: there is no release.
    """
    with _reading(target):
        return (target / POINTER).stat().st_mtime


def manifest_in_force(target: Path) -> dict[str, Any]:
    """What the build of the release in force said of it; no other file is read.

    Raises:
        ReleaseError: there is no release, or its manifest is not what was built.
    """
    with _reading(target):
        return _read_listing(target, _read_pointer(target)).release


def roll_back(target: Path) -> OpenedDirectory:
    """Put the generation before the one in force, and what it was built from, in force again.

    Raises:
        ReleaseError: there is none before, it is not what was built, or a build is at work.
    """
    target = Path(target)
    with _reading(target):
        in_force = _read_pointer(target).release_id
    with _only_builder(target):
        older = [
            one
            for one in _generations(target)
            if one.name != in_force and _number(one) < _number(target / in_force)
        ]
        if not older:
            raise ReleaseError(
                f"{target}: no release before {in_force} is kept; the next build keeps this one"
                " (`candidfeed retrain` removes what holds somebody who was erased)"
            )
        before = max(older, key=_number)
        with _reading(target):
            pointer = _sealed_pointer(before)
            opened = _open_generation(target, pointer)
        with _reported(target, "putting the release before in force"):
            replace_file(target / POINTER, pointer.encode())
    return opened


def remove_generations(target: Path, is_condemned: Callable[[Path], bool]) -> list[str]:
    """Remove the generations of which this is so; the one in force stays, whatever it holds.

    Returns:
        The names of those removed.

    Raises:
        ReleaseError: there is no release, a build is at work, or one can't be removed.
    """
    target = Path(target)
    with _reading(target):
        in_force = _read_pointer(target).release_id
    with _only_builder(target), _reported(target, "removing a release"):
        condemned = [
            one for one in _generations(target) if one.name != in_force and is_condemned(one)
        ]
        for one in condemned:
            shutil.rmtree(one.rename(target / f"{_UNFINISHED}{secrets.token_hex(4)}"))
    return [one.name for one in condemned]


@contextmanager
def training_folder(target: Path) -> Iterator[Path]:
    """A hidden folder inside a release's, for what a build that is killed would lose.

    It is there again for the next build, and removed when the block ends without an error: then the
    release is whole. With an error it stays, unless nothing was put into it.

    Raises:
        ReleaseError: another build is at work in there, or the folder can't be made.
    """
    folder = target / _TRAINING
    with _new_folders(target):
        with _reported(target, "making a folder for the training"):
            folder.mkdir(exist_ok=True)
        try:
            with _only_builder(folder):
                yield folder
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            with suppress(OSError):
                folder.rmdir()


# Before a build: is the folder ours to write to?


def refuse_foreign_folder(target: Path) -> None:
    """Refuse to make a release of a folder that holds something else; nothing is written.

    Raises:
        ReleaseError: it is a file, or it is neither empty nor a release, or can't be looked into.
    """
    with _reported(target, "looking into the folder"):
        try:
            entries = sorted(target.iterdir())
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise ReleaseError(f"{target}: is a file; name a folder for the release") from None
        is_release = (target / POINTER).is_file() and any(map(_is_generation, entries))
        foreign = [entry.name for entry in entries if not _is_ours(entry)]
    if foreign and not is_release:
        raise ReleaseError(
            f"{target}: is no release and not empty (it holds {foreign[0]!r});"
            " nothing was touched, name another folder"
        )


def _is_ours(path: Path) -> bool:
    if path.name == POINTER and path.is_file():
        return path.read_bytes().startswith(b"candidfeed ")
    if path.name == _TRAINING:
        return path.is_dir()
    return _is_leftover(path) or _is_generation(path)


def _is_generation(path: Path) -> bool:
    return generation_number(path.name) is not None and (path / MANIFEST).is_file()


def _is_leftover(path: Path) -> bool:
    """Whether a build that was killed left this behind."""
    if path.name.startswith(_UNFINISHED):
        return path.is_dir()
    return path.name.startswith(f".{POINTER}.") and path.name.endswith(".tmp")


@contextmanager
def _new_folders(target: Path) -> Iterator[None]:
    """Make the folder and the ones above it; those made are removed again if the build fails."""
    made: list[Path] = []
    try:
        with _reported(target, "making the folder"):
            for folder in (*reversed(target.parents), target):
                if not folder.is_dir():
                    folder.mkdir()
                    made.append(folder)
        yield
    except BaseException:
        # A folder that someone else put something into meanwhile stays, and so do those above it.
        with suppress(OSError):
            for folder in reversed(made):
                folder.rmdir()
        raise


@contextmanager
def _only_builder(target: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _reported(target, "locking the folder"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ReleaseError(
                    f"{target}: another build is writing there; wait until it has ended"
                ) from None
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    with _reported(target, "removing what a killed build left"):
        for path in filter(_is_leftover, list(target.iterdir())):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


# The build


def _add_generation(
    target: Path, files: Mapping[str, FileContent], manifest: Mapping[str, Any]
) -> Pointer:
    """Write a generation and put it in force."""
    folder = target / f"{_UNFINISHED}{secrets.token_hex(4)}"
    pointer = None
    try:
        with _reported(target, "making a folder for the files"):
            folder.mkdir()
        manifest_sha256 = _fill(folder, files, manifest)
        number = max(map(_number, _generations(target)), default=0) + 1
        pointer = Pointer(release_id(number, manifest_sha256), manifest_sha256)
        with _reported(target, "putting the new release in force"):
            folder = folder.rename(target / pointer.release_id)
            flush_folder(target)
            replace_file(target / POINTER, pointer.encode())
    except BaseException:
        # An interrupt can come when the new release is in force already: then it must stay.
        if pointer is None or not _is_in_force(target, pointer):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return pointer


def _fill(folder: Path, files: Mapping[str, FileContent], manifest: Mapping[str, Any]) -> str:
    """Write and flush the files, the manifest last; sha256 of the manifest."""
    entries = {}
    for name, content in files.items():
        with _reported(folder.parent, f"writing {name!r}"):
            entries[name] = _write(folder / name, content)
    unlisted = {path.name for path in folder.iterdir()} - entries.keys()
    if unlisted:
        raise ValueError(f"release: {sorted(unlisted)} were written beside the files asked for")
    listing = Listing(candidfeed_version=__version__, files=entries, release=dict(manifest))
    with _reported(folder.parent, f"writing {MANIFEST!r}"):
        sealed = _write(folder / MANIFEST, listing.encode())
        flush_folder(folder)
    return sealed.sha256


def _write(path: Path, content: FileContent) -> FileEntry:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    if _kind(path) != "a file":
        raise ValueError(f"release: asked to write {path.name!r}, a function made {_kind(path)}")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileEntry(size=path.stat().st_size, sha256=_sha256(path))


def _is_in_force(target: Path, pointer: Pointer) -> bool:
    try:
        return (target / POINTER).read_bytes() == pointer.encode()
    except FileNotFoundError:
        return False


def _generations(target: Path) -> list[Path]:
    return [path for path in target.iterdir() if generation_number(path.name) is not None]


def _number(generation: Path) -> int:
    return generation_number(generation.name) or 0


def _generation_to_keep(target: Path) -> str | None:
    """The generation in force or, where `current` can't be read, the newest."""
    with suppress(ReleaseError):
        return _read_pointer(target).release_id
    newest = max(_generations(target), key=_number, default=None)
    return newest.name if newest else None


def _remove_old_generations(target: Path, *, keep: set[str | None]) -> None:
    # The new release is in force: what can't be removed now is removed by the next build.
    with suppress(OSError):
        for path in _generations(target):
            if path.name not in keep:
                shutil.rmtree(path.rename(target / f"{_UNFINISHED}{secrets.token_hex(4)}"))


@contextmanager
def _reported(target: Path, doing: str) -> Iterator[None]:
    """Turn what the system refuses into an error that says what was being done."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and build again"
        raise ReleaseError(
            f"{target}: {doing} failed: {reason} (a release that was there is still in force)"
        ) from error


# Reading


@contextmanager
def _reading(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or target
        raise ReleaseError(f"{place}: can't be read: {error.strerror or error}") from error


def _read_pointer(target: Path) -> Pointer:
    if not target.exists():
        raise ReleaseError(
            f"{target}: there is no such folder; make a release with"
            f" 'candidfeed build DATASET -o {target}'"
        )
    if not target.is_dir():
        raise ReleaseError(f"{target}: is a file; name the folder of a release")
    path = target / POINTER
    if _kind(path) == "nothing":
        raise ReleaseError(
            f"{target}: holds no release (no file {POINTER!r}; a build may have been interrupted);"
            f" make one with 'candidfeed build DATASET -o {target}'"
        )
    return parse_pointer(path, _plain_file(path).read_bytes())


def _open_generation(target: Path, pointer: Pointer) -> OpenedDirectory:
    folder = target / pointer.release_id
    listing = _read_listing(target, pointer)
    _check_files(folder, listing.files)
    return OpenedDirectory(
        path=folder,
        release_id=pointer.release_id,
        candidfeed_version=listing.candidfeed_version,
        manifest=listing.release,
    )


def _sealed_pointer(generation: Path) -> Pointer:
    """What the pointer held when this one was in force: its name tells how its manifest began."""
    manifest = _plain_file(generation / MANIFEST)
    sealed = hashlib.sha256(manifest.read_bytes()).hexdigest()
    if generation.name != release_id(_number(generation), sealed):
        raise ReleaseError(f"{manifest}: is not what was built; {CHANGED}")
    return Pointer(generation.name, sealed)


def _read_listing(target: Path, pointer: Pointer) -> Listing:
    folder = target / pointer.release_id
    if _kind(folder) != "a folder":
        raise ReleaseError(f"{folder}: expected a folder, found {_kind(folder)}; {CHANGED}")
    path = _plain_file(folder / MANIFEST)
    encoded = path.read_bytes()
    _compare(path, "sha256", pointer.manifest_sha256, hashlib.sha256(encoded).hexdigest())
    return parse_listing(path, encoded)


def _check_files(folder: Path, entries: Mapping[str, FileEntry]) -> None:
    extra = {path.name for path in folder.iterdir()} - entries.keys() - {MANIFEST}
    if extra:
        raise ReleaseError(f"{folder / min(extra)}: is not part of the release; {CHANGED}")
    # All sizes before the first digest: a file that was cut short is told at once.
    for name, entry in entries.items():
        path = _plain_file(folder / name)
        _compare(path, "size in bytes", entry.size, path.stat().st_size)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_sha256, [folder / name for name in entries])
        for (name, entry), digest in zip(entries.items(), digests, strict=True):
            _compare(folder / name, "sha256", entry.sha256, digest)


def _plain_file(path: Path) -> Path:
    if _kind(path) != "a file":
        raise ReleaseError(f"{path}: expected a file, found {_kind(path)}; {CHANGED}")
    return path


def _kind(path: Path) -> str:
    """What stands at `path`, in words; a symbolic link is not followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "nothing"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "a special file"


def _compare(path: Path, what: str, expected: object, came: object) -> None:
    if came != expected:
        raise ReleaseError(f"{path}: {what} expected {expected}, came {came}; {CHANGED}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        piece = memoryview(bytearray(min(path.stat().st_size, _PIECE_BYTES)))
        while n_read := file.readinto(piece):
            digest.update(piece[:n_read])
    return digest.hexdigest()
