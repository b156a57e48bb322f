"""What all tests share: the environment, Hypothesis' profile, and the real data."""

import csv
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from candidfeed.data.tables import Dataset
    from candidfeed.feed.served import Served
    from candidfeed.release.build import Built
    from candidfeed.training.two_stage import TwoStage, TwoStageSettings

# Before any test module imports what reads it. One thread each: the same sums on every machine,
# and implicit warns of a threaded OpenBLAS.
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is XLA compiling the same few shapes: once a run is enough.
_COMPILED = tempfile.TemporaryDirectory(prefix="candidfeed-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Types `candidfeed ...`; gives the exit code and what came on the two outputs."""
    from candidfeed import cli

    def type_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["candidfeed", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    return type_command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, an empty one, on a terminal of 80 columns."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many KiB and gives its folder, once."""
    folder = tmp_path / "disk"
    mounted = False

    def mount(n_kib: int) -> Path:
        nonlocal mounted
        folder.mkdir()
        size = ("-t", "tmpfs", "-o", f"size={n_kib}k", "candidfeed-test", str(folder))
        program = shutil.which("mount")
        if not program or subprocess.run([program, *size], check=False).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        mounted = True
        return folder

    yield mount
    if mounted:
        # Lazily: a release that a test has read is mapped until it is collected.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# Where a store may be: on a real file, and on a real server.


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A PostgreSQL server, started once."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        running = importlib.import_module("postgres_server").postgres_server
    finally:
        sys.path.remove(str(SCRIPTS))
    with running() as one:
        yield one


@pytest.fixture
def database_url(server: Any) -> str:
    """The URL of a database that has no store in it."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA IF EXISTS candidfeed CASCADE")
    return server.url


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made: a path, or the URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "state" / "store.db")
    return request.getfixturevalue("database_url")


@pytest.fixture(scope="session")
def ml_100k() -> "Dataset":
    """MovieLens-100K, fetched once into the user's cache."""
    # Here, because it imports Polars, which must find the environment as it is set above.
    from candidfeed.cli.output import cache_folder
    from candidfeed.data.load import load_dataset

    return load_dataset("ml-100k", cache=cache_folder(), now=NOW)


# A tiny world: a log on disk, and what is built from it, once for all tests.

TINY_USERS, TINY_ITEMS = 60, 40
TINY_CONFIG = """
[events]
path = "events.csv"
user_id = "who"
item_id = "what"
timestamp = "when"
timestamp_unit = "s"
value = "stars"
like_at = 4

[users]
path = "users.csv"
user_id = "who"
features.job = { kind = "category" }
features.gender = { kind = "category", sensitive = true }

[items]
path = "items.csv"
item_id = "what"
title = "title"
features.tags = { kind = "tags" }
features.words = { kind = "text", column = "title" }
features.owner = { kind = "category", sensitive = true }
"""


def user_id(u: int) -> str:
    return f"user {u}, 🙂"


def item_id(i: int) -> str:
    return f"item {i}, 🎬"


def write_tiny_log(folder: Path) -> None:
    """60 users who each like one half of 40 items; the last two of both have no events."""
    import numpy as np  # after the environment is set

    rng = np.random.default_rng(0)
    events: list[list[object]] = []
    rows = np.arange(TINY_ITEMS - 2)
    for u in range(TINY_USERS - 2):
        share = np.where(rows % 2 == u % 2, 4.0, 1.0) / (rows + 1)
        drawn = rng.choice(rows, size=rng.integers(6, 20), replace=False, p=share / share.sum())
        for i in drawn:
            stars = int(np.clip(rng.normal(4.2 if i % 2 == u % 2 else 2.5, 0.8), 1, 5))
            when = 1_700_000_000 + int(rng.integers(10**7))
            events.append([user_id(u), item_id(i), when, stars])
    users = [[user_id(u), ("baker", "nurse")[u % 2], "fm"[u % 3 == 0]] for u in range(TINY_USERS)]
    items = [
        [item_id(i), f"Film {i}, the 🎬", ("even|old", "odd")[i % 2], "xy"[i % 3 == 0]]
        for i in range(TINY_ITEMS)
    ]
    _write_csv(folder / "events.csv", ["who", "what", "when", "stars"], events)
    _write_csv(folder / "users.csv", ["who", "job", "gender"], users)
    _write_csv(folder / "items.csv", ["what", "title", "tags", "owner"], items)
    (folder / "candidfeed.toml").write_text(TINY_CONFIG, encoding="utf-8")


def _write_csv(path: Path, header: list[str], rows: list) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log; ids hold spaces, commas and emoji."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_log(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_log: Path) -> "Dataset":
    """The log as it is read."""
    from candidfeed.data.load import load_dataset

    return load_dataset(str(tiny_log), cache=tiny_log, now=NOW)


@pytest.fixture(scope="session")
def tiny_settings() -> "TwoStageSettings":
    """Few epochs, fewer candidates than items, and both heads in the value."""
    from candidfeed.ranking.settings import RankerSettings
    from candidfeed.retrieval.training import TowerSettings
    from candidfeed.training.stage_one import StageOneSettings
    from candidfeed.training.two_stage import TwoStageSettings

    return TwoStageSettings(
        n_candidates=20,
        stage_one=StageOneSettings(tower=TowerSettings(n_epochs=3)),
        ranker=RankerSettings(n_epochs=3, n_draws=8),
        value_weights={"engaged": 1.0, "liked": 0.1},
    )


@pytest.fixture(scope="session")
def tiny_parts(
    tiny: "Dataset", tiny_settings: "TwoStageSettings", tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What one real build made on its way; the fixtures below name the parts."""
    from candidfeed.release import build

    parts: dict[str, Any] = {"steps": [], "folder": tmp_path_factory.mktemp("release") / "tiny"}

    def watch(name: str) -> None:
        real = getattr(build, name)

        def run(*args: object, **kwargs: object) -> object:
            parts[name] = real(*args, **kwargs)
            return parts[name]

        patch.setattr(build, name, run)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("evaluate_once", "refit_on_all", "export_pair"):
            watch(name)
        parts["built"] = build.build_release(
            tiny,
            parts["folder"],
            protocol=None,
            seed=7,
            settings=tiny_settings,
            report=parts["steps"].append,
        )
    return parts


@pytest.fixture(scope="session")
def tiny_built(tiny_parts: dict[str, Any]) -> "Built":
    return tiny_parts["built"]


@pytest.fixture(scope="session")
def tiny_whole(tiny_parts: dict[str, Any]) -> "TwoStage":
    """The trained pair that was released."""
    return tiny_parts["refit_on_all"]


@pytest.fixture(scope="session")
def tiny_exported(tiny_parts: dict[str, Any]) -> "Served":
    """The release before it was written."""
    return tiny_parts["export_pair"]


@pytest.fixture(scope="session")
def tiny_release(tiny_parts: dict[str, Any]) -> Path:
    """The release's folder; not to be changed."""
    return tiny_parts["folder"]


@pytest.fixture(scope="session")
def tiny_served(tiny_release: Path) -> "Served":
    """The release as another process reads it."""
    from candidfeed.release.bundle import read_release

    return read_release(tiny_release)
