"""Stores of both kinds, on a real file and on a real server."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from candidfeed.store.store import Store, StoreSettings, open_store

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
Opener = Callable[..., Store]


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


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens stores, and closes them after the test."""
    stores: list[Store] = []

    def open_one(where: str | Path, *, read_only: bool = False, **settings: int) -> Store:
        one = open_store(str(where), settings=StoreSettings(**settings), read_only=read_only)
        stores.append(one)
        return one

    yield open_one
    for one in stores:
        one.close()


@pytest.fixture
def store(where: str, opened: Opener) -> Store:
    """An empty store of either kind."""
    return opened(where)
