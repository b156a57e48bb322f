"""What only a server can do: go away and come back, be set up unsafely, be shared by writers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from candidfeed.errors import StoreError
from candidfeed.store.records import Event
from candidfeed.store.store import Store, open_store

Opener = Callable[..., Store]


def event(event_id: str, user_id: str = "ann") -> Event:
    return Event(event_id, user_id, "item", "click", None, 1.7e9)


def kept(store: Store) -> list[str]:
    return [one.event_id for _, one in store.events_after(0, 100_000)]


def test_a_lost_connection_is_made_anew(database_url: str, server: Any, opened: Opener) -> None:
    store = opened(database_url)
    store.append_events([event("a")])
    assert len(store.history("ann")) == 1
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'candidfeed'"
        )
    assert store.append_events([event("b"), event("a")]).outcomes == ("accepted", "duplicate")
    assert kept(store) == ["a", "b"]


def test_a_server_that_is_away_refuses_and_one_that_is_back_loses_nothing(
    database_url: str, server: Any, opened: Opener
) -> None:
    store = opened(database_url)
    store.append_events([event("a")])
    server.stop(mode="immediate")
    try:
        with pytest.raises(StoreError, match="can't be reached or failed"):
            store.append_events([event("b")])
        with pytest.raises(StoreError, match="can't be reached or failed"):
            store.events_after(0, 10)
        assert not store.health().can_write
    finally:
        server.start()
    assert store.append_events([event("b"), event("a")]).outcomes == ("accepted", "duplicate")
    assert store.health().can_write
    assert kept(store) == ["a", "b"]
    assert len(store.history("ann")) == 2


@pytest.mark.parametrize("n_writers", [3])
def test_several_writers_share_a_store(database_url: str, opened: Opener, n_writers: int) -> None:
    stores = [opened(database_url) for _ in range(n_writers)]
    found: list[str] = []
    cursor = 0

    def send(store: Store, name: int) -> int:
        batches = [[event(f"both {n}"), event(f"{name} {n}")] for n in range(40)]
        return sum(store.append_events(batch).n_accepted for batch in batches)

    with ThreadPoolExecutor(n_writers) as pool:
        sending = [pool.submit(send, store, name) for name, store in enumerate(stores)]
        # A follower sees every number before any greater one.
        while len(found) < 40 * (1 + n_writers):
            page = stores[0].events_after(cursor, 11)
            cursor = page[-1][0] if page else cursor
            found += [one.event_id for _, one in page]
    assert sum(one.result() for one in sending) == len(found)
    assert found == kept(stores[1])
    assert len(set(found)) == len(found)
    for store in stores:
        store.history("ann")
        store.refresh()
        assert len(store.history("ann")) == len(found)
    stores[0].delete_user("ann", 1.0)
    assert stores[1].append_events([event("later")]).outcomes == ("erased",)
    stores[1].refresh()
    assert len(stores[1].history("ann")) == 0


def test_what_others_write_between_is_taken_in(database_url: str, opened: Opener) -> None:
    stores = [opened(database_url) for _ in range(2)]
    for store in stores:
        assert len(store.history("ann")) == 0
    for n, store in enumerate(stores * 3):
        store.append_events([event(f"{n}"), event(f"{n} too")])
        if n % 2:
            stores[0].refresh()
            assert len(stores[0].history("ann")) == 2 * (n + 1)
    stores[1].refresh()
    assert len(stores[1].history("ann")) == 12


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync"])
def test_a_server_that_may_lose_what_it_commits_is_refused(
    database_url: str, server: Any, opened: Opener, setting: str
) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"ALTER SYSTEM SET {setting} = off")
        admin.execute("SELECT pg_reload_conf()")
        try:
            server.stop()
            server.start()
            with pytest.raises(StoreError, match=f"runs with {setting} = off"):
                opened(database_url)
        finally:
            with psycopg.connect(server.url, autocommit=True) as again:
                again.execute(f"ALTER SYSTEM RESET {setting}")
            server.stop()
            server.start()


def test_a_database_whose_text_is_not_unicode_is_refused(
    database_url: str, server: Any, opened: Opener
) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="its text is LATIN1"):
        opened(server.url.replace("/postgres?", "/latin?"))


def test_a_newer_store_is_refused(database_url: str, opened: Opener) -> None:
    opened(database_url).close()
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("UPDATE candidfeed.meta SET value = '99' WHERE name = 'schema'")
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"newer candidfeed \(schema 99"):
            opened(database_url, read_only=read_only)


def test_an_empty_database_has_no_store_to_read(database_url: str) -> None:
    with pytest.raises(StoreError, match="meta"):
        open_store(database_url, read_only=True)


def test_what_else_is_in_the_database_is_left_alone(database_url: str, opened: Opener) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE TABLE events (mine INT)")
        try:
            opened(database_url).append_events([event("a")])
            assert admin.execute("SELECT count(*) FROM public.events").fetchall() == [(0,)]
            assert admin.execute("SELECT count(*) FROM candidfeed.events").fetchall() == [(1,)]
        finally:
            admin.execute("DROP TABLE public.events")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://nobody:s3cret@/x?host=/not/there", "postgresql:///not/there/x: .*reached"),
        ("postgresql://nobody:s3cret@/x?nonsense=1", "URL can't be read"),
    ],
)
def test_a_server_that_cannot_be_reached_is_told_without_the_password(url: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as raised:
        open_store(url)
    assert "s3cret" not in str(raised.value)
