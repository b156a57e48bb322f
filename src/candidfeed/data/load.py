"""From what a person typed to a checked data set."""

import contextlib
import difflib
from datetime import datetime
from pathlib import Path

from candidfeed.config import FOLDER_CONFIG
from candidfeed.data.files import read_files
from candidfeed.data.graph_text import is_graph_text, read_graph_text
from candidfeed.data.movielens import fetch_ml_100k, read_ml_100k
from candidfeed.data.movielens_sources import NAME as ML_100K
from candidfeed.data.movielens_sources import Progress
from candidfeed.data.tables import Dataset
from candidfeed.errors import DataError

_KNOWN = (
    f"a DATASET is `{ML_100K}`, a .toml file that describes a log (docs/data.md), a folder with a "
    f"{FOLDER_CONFIG}, or a folder with train.txt and test.txt"
)
_LOG_SUFFIXES = (".csv", ".tsv", ".parquet", ".gz")


def load_dataset(
    source: str, *, cache: Path, now: datetime, progress: Progress | None = None
) -> Dataset:
    """Read `ml-100k` (fetched first if it is not cached), a TOML file or a folder.

    Args:
        source: what the person typed.
        cache: the folder of fetched data sets.
        now: events later than a day after it can't be used.
        progress: is told how far a download is.

    Raises:
        DataError: there is no such data set, or a source is wrong as a whole.
        ConfigError: the TOML file is wrong.
        FetchError: `ml-100k` can't be fetched, or its cached files are damaged.
    """
    if source == ML_100K:
        return read_ml_100k(fetch_ml_100k(cache, progress=progress))
    path = Path(source)
    if source and path.is_dir():
        return _load_folder(path, now=now)
    if path.suffix == ".toml" and path.is_file():
        return read_files(path, now=now)
    if path.name.lower().endswith(_LOG_SUFFIXES) and path.is_file():
        raise DataError(
            f"{source}: is a log without a description; say in a .toml file what its columns mean "
            "(docs/data.md) and give that file's name"
        )
    raise DataError(f"{source!r}: no such data set; {_nearest(path)}{_KNOWN}")


def claim_licence_notice(name: str, licence: str, *, cache: Path) -> str:
    """The terms of a data set the first time that they are asked for with a cache, "" later."""
    marker = cache / f"{name}.licence-shown"
    if not licence or marker.exists():
        return ""
    with contextlib.suppress(OSError):  # then they are shown each time
        cache.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return licence


def _load_folder(folder: Path, *, now: datetime) -> Dataset:
    if (folder / FOLDER_CONFIG).is_file():
        return read_files(folder / FOLDER_CONFIG, now=now)
    if is_graph_text(folder):
        return read_graph_text(folder)
    tables = sorted(one.name for one in folder.glob("*.toml"))
    hint = f"did you mean '{folder / tables[0]}'? " if tables else ""
    raise DataError(
        f"{folder}: the folder has neither {FOLDER_CONFIG} nor train.txt; {hint}{_KNOWN}"
    )


def _nearest(path: Path) -> str:
    known = [ML_100K]
    if path.parent.is_dir():
        beside = (one for one in path.parent.iterdir() if one.is_dir() or one.suffix == ".toml")
        known += sorted(str(one) for one in beside)
    found = difflib.get_close_matches(str(path), known, n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}? " if found else ""
