"""`candidfeed fetch`: what a person sees."""

import json as json_module
import shutil
from pathlib import Path

import pytest

from candidfeed.cli.fetch import fetch
from candidfeed.cli.output import cache_folder
from candidfeed.data import movielens
from candidfeed.data.movielens_sources import ZipSource
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError, FetchError


@pytest.fixture
def cache(ml_100k: Dataset, tmp_path: Path) -> Path:
    """A cache that holds the data set already."""
    assert ml_100k.name == "ml-100k"
    shutil.copytree(cache_folder() / "ml-100k", tmp_path / "cache" / "ml-100k")
    return tmp_path / "cache"


def test_source_folder_and_sums_are_shown_and_the_terms_once(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("ml-100k", cache=cache)
    first = capsys.readouterr()
    assert "ml-100k: was cached already; --force fetches it anew" in first.out
    assert f"  folder  {cache / 'ml-100k'}" in first.out.splitlines()
    assert (
        "  ratings.tsv ecb4025ec09d52830e65854de08fd07a79ff7bb9201f7067d753c2f0516e5674"
        in first.out.splitlines()
    )
    assert "do not redistribute it without separate permission" in first.err
    fetch("ml-100k", cache=cache)
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == ""


def test_json_says_the_same(cache: Path, tmp_path: Path) -> None:
    fetch("ml-100k", cache=cache, json=tmp_path / "fetched.json")
    told = json_module.loads((tmp_path / "fetched.json").read_text())
    assert set(told) == {"dataset", "folder", "cached", "source", "source_sha256", "files"}
    assert told["cached"] is True
    assert set(told["files"]) == {"ratings.tsv", "users.tsv", "movies.tsv"}


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^'ml-1m' can't be fetched; there is: ml-100k$"):
        fetch("ml-1m")


def test_a_fetch_that_fails_writes_neither_data_nor_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens, "ZipSource", lambda: ZipSource(url="http://127.0.0.1:9/x.zip"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FetchError, match="can't be fetched"):
        fetch("ml-100k", cache=tmp_path / "cache", json=tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []
