"""MovieLens-100K: fetched once, checked, cached, and read from then on without a network.

Whichever source it came from, it ends in the same three text files, byte for byte.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from candidfeed.data.checks import QUARANTINE, check_canonical
from candidfeed.data.feature_columns import words
from candidfeed.data.movielens_sources import (
    GENRES,
    NAME,
    SCHEMAS,
    Progress,
    Tables,
    WheelSource,
    ZipSource,
    fetch_tables,
)
from candidfeed.data.tables import TIME, Dataset, Feature
from candidfeed.errors import FetchError

LICENCE = """\
MovieLens-100K, GroupLens Research, University of Minnesota. Terms of use, in
full at https://files.grouplens.org/datasets/movielens/ml-100k-README.txt:
- for research; nobody guarantees that the data are correct or fit for a purpose
- do not state or imply that GroupLens or the university endorses you
- acknowledge the data set in what you publish: F. Maxwell Harper and Joseph A.
  Konstan. 2015. The MovieLens Datasets: History and Context. ACM TiiS 5, 4,
  Article 19. doi:10.1145/2827872
- do not redistribute it without separate permission
- no commercial or revenue-bearing use without permission from GroupLens"""

_N_ROWS = {"ratings": 100_000, "users": 943, "movies": 1_682}
# Of u.data's lines, "user<tab>item<tab>rating<tab>timestamp", made anew from either source.
_U_DATA_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
_MANIFEST = "manifest.json"


def fetch_ml_100k(
    cache: Path,
    *,
    offline: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    archive: ZipSource | None = None,
    wheel: WheelSource | None = None,
) -> Path:
    """Make sure that the data set is in the cache; nothing is asked of the network if it is.

    Args:
        cache: the folder of all cached data sets.
        offline: never ask the network.
        force: fetch it even if it is cached.
        progress: is told how far the download is.
        archive: asked first; GroupLens where it is None.
        wheel: asked where the archive can't be reached.

    Returns:
        The folder to give to `read_ml_100k`.

    Raises:
        FetchError: neither source can be reached, what came is not MovieLens-100K, the cached files
            are damaged, or the cache can't be written. A cache that was whole stays as it was.
    """
    folder = cache / NAME
    if folder.exists() and not force:
        _read_checked(folder)
        return folder
    if offline:
        raise FetchError(f"{NAME} is not in {cache}; run `candidfeed fetch {NAME}` with a network")
    report = progress or (lambda _what, _done, _total: None)
    source, tables = fetch_tables(archive or ZipSource(), wheel or WheelSource(), report, folder)
    _check_content(tables, source)
    try:
        _store(folder, tables, source)
    except OSError as error:
        raise FetchError(
            f"{folder}: can't be written ({error.strerror or error}); free space there, or choose "
            "another folder with --cache or CANDIDFEED_CACHE"
        ) from error
    return folder


def read_ml_100k(folder: Path) -> Dataset:
    """The cached files as canonical tables: ratings in the order of u.data.

    Raises:
        FetchError: a file is missing or damaged.
    """
    files = _read_checked(folder)
    ratings, users, movies = (_parse(files[f"{name}.tsv"], name) for name in SCHEMAS)
    return check_canonical(
        Dataset(
            name=NAME,
            events=_events(ratings),
            users=users.with_columns(pl.col("age").cast(pl.Float32)),
            items=_items(movies),
            user_features=(
                Feature("age", "bucket", sensitive=True),
                Feature("gender", "category", sensitive=True),
                Feature("occupation", "category"),
                # Where someone lives stands for income and origin: sensitive too.
                Feature("zip_code", "category", sensitive=True),
            ),
            item_features=(
                Feature("genres", "tags"),
                Feature("release_date", "time"),
                Feature("title_words", "text"),
            ),
            quarantine=pl.DataFrame(schema=QUARANTINE),
            rows_read=len(ratings),
            max_bad_share=0.0,
            positive_kinds=("rating",),
            like_at=4.0,
            values=(1.0, 5.0),
            licence=LICENCE,
        )
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Where the cached files came from (`source`) and the sha256 of each (`files`)."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if set(manifest["files"]) == {f"{name}.tsv" for name in SCHEMAS}:
            return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / _MANIFEST) from error
    raise _damaged(folder / _MANIFEST)


def _events(ratings: pl.DataFrame) -> pl.DataFrame:
    return ratings.select(
        "user_id",
        "item_id",
        pl.lit("rating").alias("kind"),
        pl.col("rating").cast(pl.Float32).alias("value"),
        (pl.col("timestamp") * 1_000_000).cast(TIME).alias("timestamp"),
    )


def _items(movies: pl.DataFrame) -> pl.DataFrame:
    named = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES]
    without_year = movies["title"].str.replace(r"\s*\(\d{4}\)", "")
    return movies.select(
        "item_id",
        "title",
        pl.concat_list(named).list.drop_nulls().alias("genres"),
        pl.col("release_date").str.to_date("%d-%b-%Y").cast(TIME),
        words(without_year).alias("title_words"),
    )


def _check_content(tables: Tables, source: Mapping[str, str]) -> None:
    """The same rows in the same order, whichever source they came from."""
    for name, n_expected in _N_ROWS.items():
        if len(tables[name]) != n_expected:
            raise FetchError(
                f"{source['source']}: has {len(tables[name]):,} {name}, not {n_expected:,}"
            )
    u_data = tables["ratings"].write_csv(separator="\t", include_header=False).encode()
    if (found := hashlib.sha256(u_data).hexdigest()) != _U_DATA_SHA256:
        raise FetchError(
            f"{source['source']}: its ratings have sha256 {found}, not {_U_DATA_SHA256}; "
            "nothing was kept"
        )


def _store(folder: Path, tables: Tables, source: Mapping[str, str]) -> None:
    """Write the files beside `folder` and let them take its place as one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{NAME}-"))
    try:
        contents = {
            f"{name}.tsv": table.write_csv(separator="\t").encode()
            for name, table in tables.items()
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        manifest = json.dumps({**source, "files": sums}, indent=2) + "\n"
        for name, content in {**contents, _MANIFEST: manifest.encode()}.items():
            with (beside / name).open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        beside.chmod(0o755)
        _swap(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(beside: Path, folder: Path) -> None:
    old = beside.with_name(f"{beside.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        beside.rename(folder)
    except OSError:
        if not old.exists() and folder.exists():
            return  # another process was first, and has checked the same content
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_checked(folder: Path) -> dict[str, bytes]:
    """The content of each cached file, once its sha256 is what was stored."""
    sums = read_manifest(folder)["files"]
    contents = {}
    for name, expected in sums.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise _damaged(folder / name) from error
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise _damaged(folder / name)
    return contents


def _parse(content: bytes, table: str) -> pl.DataFrame:
    return pl.read_csv(content, separator="\t", schema=SCHEMAS[table])


def _damaged(path: Path) -> FetchError:
    return FetchError(
        f"{path}: is missing or is not what was fetched; run `candidfeed fetch {NAME} --force`"
    )
