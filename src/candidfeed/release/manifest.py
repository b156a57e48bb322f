"""The two small texts that hold a release together: the line in `current` and the manifest.

`current` names the generation in force and the sha256 of its manifest; the manifest lists the size
and the sha256 of every other file. Both are read strictly: what is not exactly as a build writes
it is refused.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from candidfeed import __version__
from candidfeed.errors import ReleaseError

FORMAT = 2
MANIFEST = "manifest.json"
POINTER = "current"
CHANGED = "the release was changed after it was built; build it again or copy it anew"

_GENERATION = re.compile(r"(\d{4,9})-([0-9a-f]{12})")
_POINTER_LINE = re.compile(rb"candidfeed (\d{1,9}) (\d{4,9}-[0-9a-f]{12}) ([0-9a-f]{64})\n")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pointer:
    """The generation in force (`0002-3f9a0c12be45`) and the sha256 of its manifest."""

    release_id: str
    manifest_sha256: str

    def encode(self) -> bytes:
        return f"candidfeed {FORMAT} {self.release_id} {self.manifest_sha256}\n".encode()


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 of one file of a release."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Listing:
    """What a manifest says: the files by name, and what the build says of itself (`release`)."""

    candidfeed_version: str
    files: dict[str, FileEntry]
    release: dict[str, Any]

    def encode(self) -> bytes:
        content = {
            "format": FORMAT,
            "candidfeed": self.candidfeed_version,
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "release": self.release,
        }
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"


def is_file_name(name: str) -> bool:
    """Whether a file of a release may be called so: no folder, nothing hidden, no manifest."""
    return name != MANIFEST and bool(_FILE_NAME.fullmatch(name))


def release_id(number: int, manifest_sha256: str) -> str:
    return f"{number:04d}-{manifest_sha256[:12]}"


def generation_number(name: str) -> int | None:
    """The number in a generation's name; None where the name is not one of a generation."""
    found = _GENERATION.fullmatch(name)
    return int(found[1]) if found else None


def parse_pointer(path: Path, line: bytes) -> Pointer:
    """What `current`, read from `path`, points to.

    Raises:
        ReleaseError: the line is not one that a build writes, or is of another format.
    """
    found = _POINTER_LINE.fullmatch(line)
    if not found:
        raise ReleaseError(f"{path}: names no generation (it holds {line[:120]!r}); {CHANGED}")
    _check_format(path, int(found[1]))
    pointer = Pointer(release_id=found[2].decode(), manifest_sha256=found[3].decode())
    if not pointer.manifest_sha256.startswith(pointer.release_id.partition("-")[2]):
        raise ReleaseError(
            f"{path}: generation {pointer.release_id} and sha256 {pointer.manifest_sha256} do not"
            f" belong together; {CHANGED}"
        )
    return pointer


def parse_listing(path: Path, encoded: bytes) -> Listing:
    """What the manifest, read from `path`, says.

    Raises:
        ReleaseError: it is of another format, or not of the shape that a build writes.
    """
    try:
        content = json.loads(encoded)
    except ValueError as error:
        raise ReleaseError(f"{path}: is no JSON ({error}); build the release again") from error
    if not isinstance(content, dict):
        raise _wrong_shape(path, "an object at the top", content)
    _check_format(path, content.get("format"))
    version = content.get("candidfeed")
    if not isinstance(version, str):
        raise _wrong_shape(path, "a version under 'candidfeed'", version)
    release = content.get("release")
    if not isinstance(release, dict):
        raise _wrong_shape(path, "an object under 'release'", release)
    files = content.get("files")
    if not isinstance(files, dict):
        raise _wrong_shape(path, "an object under 'files'", files)
    entries = {name: _parse_entry(path, name, entry) for name, entry in files.items()}
    return Listing(candidfeed_version=version, files=entries, release=release)


def _parse_entry(path: Path, name: str, entry: object) -> FileEntry:
    if not is_file_name(name):
        raise _wrong_shape(path, "plain file names under 'files'", name)
    match entry:
        case {"size": int(size), "sha256": str(sha256), **other} if not other:
            if size >= 0 and not isinstance(size, bool) and _SHA256.fullmatch(sha256):
                return FileEntry(size=size, sha256=sha256)
    raise _wrong_shape(path, f"a size and a sha256 for {name!r}", entry)


def _check_format(path: Path, version: object) -> None:
    if version != FORMAT or isinstance(version, bool):
        raise ReleaseError(
            f"{path}: written in format {version!r}, this candidfeed ({__version__}) reads format"
            f" {FORMAT}; build the release again or install the version that made it"
        )


def _wrong_shape(path: Path, expected: str, came: object) -> ReleaseError:
    shown = repr(came)[:80]
    return ReleaseError(f"{path}: expected {expected}, found {shown}; build the release again")
