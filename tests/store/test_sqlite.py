"""The SQLite file: who may write it, what is refused, what an erasure leaves, and full disks."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from candidfeed.errors import StoreError
from candidfeed.store import group_commit, sqlite
from candidfeed.store.records import ApiKey, Event, SlateRecord
from candidfeed.store.sqlite import SqliteDatabase
from candidfeed.store.store import Store, StoreSettings, open_store
from candidfeed.store.tables import Reading

Opener = Callable[..., Store]


def event(event_id: str, user_id: str = "ann", *, item_id: str = "item") -> Event:
    return Event(event_id, user_id, item_id, "click", None, 1.7e9)


def bytes_of(path: Path) -> bytes:
    """All that is in the database's files."""
    return b"".join(one.read_bytes() for one in sorted(path.parent.glob(f"{path.name}*")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# What is read


def test_what_is_committed_while_a_user_is_read_is_not_counted_yet(
    path: Path, opened: Opener
) -> None:
    store = opened(path)
    store.append_events([event(str(n)) for n in range(4)])
    connection = sqlite3.connect(path)

    def fetch(query: str, arguments: tuple[object, ...] = ()) -> list[tuple]:
        rows = connection.execute(query, arguments).fetchall()
        store.append_events([event(f"after {query}")])
        return rows

    loaded = Reading(fetch).about("ann", 2)
    connection.close()
    # Its secret was read first.
    assert loaded.counts == {"click": 5}
    assert [row[0] for row in loaded.events] == [5, 4]


# Who may write


def test_a_second_writer_is_refused_with_the_number_of_the_first(
    path: Path, opened: Opener
) -> None:
    opened(path).append_events([event("a")])
    with pytest.raises(StoreError, match=rf"process {os.getpid()} writes to this store already"):
        opened(path)
    script = f"""
from candidfeed.store.store import open_store
try:
    open_store({str(path)!r})
except Exception as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"process {os.getpid()} writes to this store already" in told


def test_the_next_may_write_once_the_first_has_closed(path: Path, opened: Opener) -> None:
    first = opened(path)
    first.close()
    assert opened(path).append_events([event("a")]).n_accepted == 1


def test_every_commit_is_flushed_and_what_is_deleted_is_overwritten(path: Path) -> None:
    database = SqliteDatabase(path)
    assert database.writer is not None
    asked = {name: database.writer.execute(f"PRAGMA {name}").fetchall()[0][0] for name in
             ("journal_mode", "synchronous", "secure_delete")}  # fmt: skip
    database.close()
    assert asked == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}


# What is refused, and left as it is


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # Pages in the middle: the tables' roots stand before, and the latest rows after.
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 5 * 4096] = b"\xaa" * 5 * 4096
    path.write_bytes(content)


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.write_text("user,item\n1,2\n"), "is not a SQLite database"),
        (lambda path: path.write_bytes(path.read_bytes()[:10]), "is not a SQLite database"),
        (damaged, "is damaged .*restore a backup"),
        (of_another_program, "database of another program; name another file"),
        (newer, r"newer candidfeed \(schema 99, this one knows 1\); upgrade"),
    ],
)
def test_what_is_no_store_of_ours_is_refused_and_left_as_it_is(
    path: Path, change: Callable[[Path], object], told: str, read_only: bool
) -> None:
    with open_store(str(path)) as store:
        store.append_events([event(f"{n}") for n in range(2_000)])
    change(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=told) as raised:
        with open_store(str(path), read_only=read_only) as store:
            store.events_after(0, 10_000)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_a_large_file_that_is_damaged_is_told_when_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(str(path)) as store:
        store.append_events([event(f"{n}") for n in range(2_000)])
    damaged(path)
    monkeypatch.setattr(sqlite, "_CHECKED_BYTES", 0)
    with open_store(str(path)) as store, pytest.raises(StoreError, match="is damaged"):
        store.events_after(0, 10_000)


def test_a_store_that_is_not_there_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        open_store(str(path), read_only=True)
    assert list(path.parent.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="directory"):
        open_store(str(tmp_path))


# Erasure, on the bytes


def marker(user: int) -> str:
    return f"<user {user:04d}>"


def test_no_byte_of_an_erased_user_is_left_in_the_files(path: Path, opened: Opener) -> None:
    rng = random.Random(0)
    store = opened(path)
    n_users, n_erased = 80, 50
    everyone = [user for user in range(n_users) for _ in range(25)]
    rng.shuffle(everyone)
    for start in range(0, len(everyone), 50):
        batch = []
        for n, user in enumerate(everyone[start : start + 50], start):
            mark = marker(user)
            # Ids in random order and rows of any length: pages are split, and cells move.
            event_id = f"{rng.random()} {mark}" + "x" * rng.randrange(200)
            request_id = f"{n} {mark}"
            batch.append(Event(event_id, mark, f"{mark} item {n}", "click", None, n, request_id, 1))
            content = mark.encode() * rng.choice([1, 10, 800])
            store.log_slate(SlateRecord(request_id, mark, n, f"release {mark}", content, content))
        store.append_events(batch)
    for user in rng.sample(range(n_users), n_users) * 3:
        store.put_user(marker(user), {"about": marker(user) * rng.randrange(300)}, 1.0)
    for user in range(0, n_users, 7):
        store.add_key(ApiKey(f"key {user}", b"h", (), 1.0, user_id=marker(user)))
    store.flush()
    erased = rng.sample(range(n_users), n_erased)
    for user in erased:
        assert marker(user).encode() in bytes_of(path)
        erasure = store.delete_user(marker(user), 2.0)
        assert (erasure.n_events, erasure.n_slates, erasure.is_scrubbed) == (25, 25, True)
        assert marker(user).encode() not in bytes_of(path)
    others = set(range(n_users)) - set(erased)
    for _ in range(2):
        left = bytes_of(path)
        assert {user for user in range(n_users) if marker(user).encode() in left} == others
        assert len(store.events_after(0, 10_000)) == 25 * len(others)
        store.compact()


def test_an_erasure_that_a_reader_holds_up_is_finished_later(
    path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_SCRUB_WAIT_MS", 10)
    monkeypatch.setattr(group_commit, "_RETRY_S", 0.0)
    store = opened(path)
    store.append_events([event("a", "<ann>"), event("b", "bob")])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM events").fetchall() == [(2,)]
    assert not store.delete_user("<ann>", 1.0).is_scrubbed
    assert store.health().is_scrub_due
    assert store.is_erased("<ann>")
    reader.execute("COMMIT")
    reader.close()
    store.append_events([event("c", "bob")])
    assert not store.health().is_scrub_due
    assert b"<ann>" not in bytes_of(path)


def test_an_erasure_that_a_kill_cut_short_is_finished_at_the_next_start(
    path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)
    store.append_events([event("a", "<ann>"), event("b", "bob")])
    with monkeypatch.context() as patch:
        patch.setattr(SqliteDatabase, "scrub", lambda _: False)
        store.delete_user("<ann>", 1.0)
    # What is on disk now is what a kill would leave.
    left = path.with_name("left.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{left}{suffix}")
    assert b"<ann>" in bytes_of(left)
    again = opened(left)
    assert again.is_erased("<ann>")
    assert b"<ann>" not in bytes_of(left)


# Full disks


def fill(folder: Path) -> Path:
    """A file that leaves no room."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


def refusal(store: Store, batch: list[Event]) -> str | None:
    """What is said where a batch is not acknowledged."""
    try:
        store.append_events(batch)
    except StoreError as error:
        return str(error)
    return None


def test_a_full_disk_acknowledges_nothing_says_why_and_recovers_by_itself(
    small_disk: Callable[[int], Path], opened: Opener
) -> None:
    folder = small_disk(2_048)
    path = folder / "store.db"
    store = opened(path)
    acknowledged = [f"before {n}" for n in range(100)]
    store.append_events([event(one) for one in acknowledged])
    assert len(store.history("ann")) == 100
    filler = fill(folder)
    refused: list[list[Event]] = []
    while len(refused) < 3:
        batch = [event(f"{len(acknowledged)} {len(refused)} {n} {'x' * 500}") for n in range(40)]
        told = refusal(store, batch)
        if told is None:
            acknowledged += [one.event_id for one in batch]
        else:
            assert str(path) in told
            assert "full" in told
            refused.append(batch)
    health = store.health()
    assert not health.can_write
    assert "full" in (health.reason or "")
    assert health.failing_since_s is not None
    # Reading goes on.
    assert [one.event_id for _, one in store.events_after(0, 10_000)] == acknowledged
    assert len(store.history("ann")) == min(512, len(acknowledged))
    filler.unlink()
    for batch in refused:
        assert store.append_events(batch).outcomes == ("accepted",) * 40
        acknowledged += [one.event_id for one in batch]
    assert store.health().can_write
    store.close()
    again = opened(path)
    assert [one.event_id for _, one in again.events_after(0, 10_000)] == acknowledged


def test_a_store_that_finds_no_room_to_begin_says_so(
    small_disk: Callable[[int], Path], opened: Opener
) -> None:
    folder = small_disk(64)
    filler = fill(folder)
    with pytest.raises(StoreError, match=r"full|No space"):
        opened(folder / "store.db")
    filler.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_file_that_may_not_grow_refuses_events_until_it_may(path: Path) -> None:
    database = SqliteDatabase(path)
    assert database.writer is not None
    store = Store(database, settings=StoreSettings(), clock=lambda: 12.5)
    pages = database.writer.execute("PRAGMA page_count").fetchall()[0][0]
    database.writer.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    batch = [event(f"{n}" + "x" * 900) for n in range(100)]
    store.log_slate(SlateRecord("r", "ann", 1.0, "release", b"x" * 100_000))
    with pytest.raises(StoreError, match=r"no room .*free space on this disk"):
        store.append_events(batch)
    # Slates that find no room do not keep a small batch out.
    assert store.append_events([event("small")]).n_accepted == 1
    assert store.health().failing_since_s == 12.5
    with pytest.raises(StoreError, match="no room"):
        store.flush()
    database.writer.execute("PRAGMA max_page_count = 1000000").fetchall()
    assert store.append_events(batch).n_accepted == 100
    store.flush()
    assert store.health().can_write
    assert [one.request_id for _, one in store.slates_after(0, 10)] == ["r"]
    store.close()
