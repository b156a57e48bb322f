"""Stores of both kinds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from candidfeed.store.store import Store, StoreSettings, open_store

Opener = Callable[..., Store]


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
