"""The store's tables, with all reading and writing, in SQL that both databases take.

Three things make an erasure complete on the bytes of a SQLite file. What tells of a user stands in
rows that are only ever added at the end of a table, so that no row is copied when a page is split.
Indexes hold numbers and keyed hashes, never an id as it came. And an erased row is blanked, not
deleted: SQLite (`secure_delete`) overwrites what a row gives up, but not the copies that stay
behind where a deletion makes it join half-empty pages. `compact` takes the blank rows out.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from candidfeed.errors import StoreError
from candidfeed.store.database import Row, Transaction
from candidfeed.store.history import Loaded
from candidfeed.store.records import ApiKey, Change, Event, Outcome, SlateRecord

SCHEMA_VERSION: Final = 1
SECRET_BYTES: Final = 32
_KEY_BYTES: Final = 16
# Arguments of one statement: SQLite takes 32,766.
_CHUNK: Final = 500

# {serial}, {bytes}, {int} and {real} are the database's own words.
SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value {bytes} NOT NULL)",
    # An erased user keeps number and key, and loses the id.
    "CREATE TABLE people (user_no {serial}, user_key {bytes} NOT NULL UNIQUE, user_id TEXT,"
    " erased_s {real})",
    "CREATE TABLE events (seq {serial}, event_key {bytes} UNIQUE, event_id TEXT, user_no {int},"
    " item_id TEXT, kind TEXT, value {real}, time_s {real}, request_id TEXT, position {int})",
    "CREATE INDEX events_of_user ON events (user_no, time_s)",
    "CREATE TABLE slates (seq {serial}, request_key {bytes} UNIQUE, request_id TEXT,"
    " user_no {int}, time_s {real}, release_id TEXT, slots {bytes}, features {bytes})",
    "CREATE INDEX slates_of_user ON slates (user_no)",
    "CREATE TABLE user_fields (seq {serial}, user_no {int}, fields TEXT, time_s {real})",
    "CREATE INDEX fields_of_user ON user_fields (user_no)",
    "CREATE TABLE items (seq {serial}, item_id TEXT NOT NULL UNIQUE, fields TEXT,"
    " time_s {real} NOT NULL)",
    "CREATE TABLE api_keys (seq {serial}, name TEXT NOT NULL UNIQUE, hashed {bytes} NOT NULL,"
    " scopes TEXT NOT NULL, created_s {real} NOT NULL, expires_s {real}, user_no {int})",
)
# What `compact` deletes: events and slates that were blanked, features that were replaced.
BLANK_ROWS: Final = (
    "DELETE FROM events WHERE event_key IS NULL",
    "DELETE FROM slates WHERE request_key IS NULL",
    "DELETE FROM user_fields WHERE user_no IS NULL",
)

_EVENT = "seq, event_id, user_id, item_id, kind, value, time_s, request_id, position"
_SLATE = "request_id, user_id, time_s, release_id, slots, features"


class Reading:
    """What is asked of the tables.

    Args:
        fetch: all rows of one query (`Database.fetch`).
    """

    def __init__(self, fetch: Callable[..., list[Row]]) -> None:
        self._fetch = fetch
        self.secret = bytes(fetch("SELECT value FROM meta WHERE name = 'secret'")[0][0])

    def about(self, user_id: str, limit: int) -> Loaded:
        """All of a user, and so many of their latest events.

        Of the same time, the event that came later is the later one.
        """
        found = self._fetch(
            "SELECT user_no, erased_s, fields, (SELECT MAX(seq) FROM events)"
            " FROM people LEFT JOIN user_fields USING (user_no) WHERE user_key = ?",
            (self._key(user_id),),
        )
        if not found:
            # Most people who ask: one question is enough.
            return Loaded([], {}, "", is_erased=False)
        # What is committed meanwhile is told later, and must not be counted twice.
        user_no, erased_s, fields, until = found[0]
        events = self._fetch(
            "SELECT seq, item_id, kind, value, time_s FROM events WHERE user_no = ? AND seq <= ?"
            " ORDER BY time_s DESC, seq DESC LIMIT ?",
            (user_no, until, limit),
        )
        counts: Mapping[str, int] = Counter(kind for _, _, kind, _, _ in events)
        if len(events) == limit:
            # There may be more of them.
            counts = dict(
                self._fetch(
                    "SELECT kind, COUNT(*) FROM events WHERE user_no = ? AND seq <= ?"
                    " GROUP BY kind",
                    (user_no, until),
                )
            )
        return Loaded(events, counts, fields or "", is_erased=erased_s is not None)

    def events_after(self, cursor: int, limit: int) -> list[tuple[int, Event]]:
        """Events in the order in which they were committed, with the cursor of each."""
        rows = self._fetch(
            f"SELECT {_EVENT} FROM events JOIN people USING (user_no)"
            " WHERE seq > ? AND event_key IS NOT NULL ORDER BY seq LIMIT ?",
            (cursor, limit),
        )
        return [(row[0], Event(*row[1:])) for row in rows]

    def n_events(self, after: int, until: int) -> int:
        """How many events have cursors behind the first and up to the second, erased ones too."""
        sql = "SELECT COUNT(*) FROM events WHERE seq > ? AND seq <= ?"
        return self._fetch(sql, (after, until))[0][0]

    def slates_after(self, cursor: int, limit: int) -> list[tuple[int, SlateRecord]]:
        """Slates in the order in which they were committed, with the cursor of each."""
        rows = self._fetch(
            f"SELECT seq, {_SLATE} FROM slates LEFT JOIN people USING (user_no)"
            " WHERE seq > ? AND request_key IS NOT NULL ORDER BY seq LIMIT ?",
            (cursor, limit),
        )
        return [(row[0], SlateRecord(*row[1:])) for row in rows]

    def slate(self, request_id: str) -> SlateRecord | None:
        """What was answered to a request; None where it is not known."""
        rows = self._fetch(
            f"SELECT {_SLATE} FROM slates LEFT JOIN people USING (user_no) WHERE request_key = ?",
            (self._key(request_id),),
        )
        return SlateRecord(*rows[0]) if rows else None

    def items_after(self, cursor: int, limit: int) -> list[Change]:
        """The latest change of each item that changed after the cursor, in their order."""
        return _changes(
            self._fetch(
                "SELECT seq, item_id, fields, time_s FROM items WHERE seq > ? ORDER BY seq LIMIT ?",
                (cursor, limit),
            )
        )

    def users_after(self, cursor: int, limit: int) -> list[Change]:
        """The latest change of each user that changed after the cursor, in their order."""
        return _changes(
            self._fetch(
                "SELECT seq, user_id, fields, time_s FROM user_fields JOIN people USING (user_no)"
                " WHERE seq > ? ORDER BY seq LIMIT ?",
                (cursor, limit),
            )
        )

    def item(self, item_id: str) -> Change | None:
        """The latest that is known of an item; None where nothing ever was."""
        sql = "SELECT seq, item_id, fields, time_s FROM items WHERE item_id = ?"
        return next(iter(_changes(self._fetch(sql, (item_id,)))), None)

    def user(self, user_id: str) -> Change | None:
        """The latest that is known of a user; None where nothing is."""
        rows = self._fetch(
            "SELECT seq, user_id, fields, time_s FROM user_fields JOIN people USING (user_no)"
            " WHERE user_key = ? AND fields IS NOT NULL",
            (self._key(user_id),),
        )
        return next(iter(_changes(rows)), None)

    def is_erased(self, user_id: str) -> bool:
        """Whether this user was erased."""
        sql = "SELECT 1 FROM people WHERE user_key = ? AND erased_s IS NOT NULL"
        return bool(self._fetch(sql, (self._key(user_id),)))

    def traces_of(self, user_id: str) -> dict[str, int]:
        """By table, how many rows still tell of a user."""
        key = self._key(user_id)
        number = "user_no = (SELECT user_no FROM people WHERE user_key = ?)"
        named = "user_id = ? OR (user_key = ? AND erased_s IS NULL)"
        asked = {
            "people": (named, (user_id, key)),
            "events": (number, (key,)),
            "slates": (number, (key,)),
            "user_fields": (f"{number} AND fields IS NOT NULL", (key,)),
            "api_keys": (number, (key,)),
        }
        return {
            table: self._fetch(f"SELECT count(*) FROM {table} WHERE {where}", arguments)[0][0]
            for table, (where, arguments) in asked.items()
        }

    def erased_of(self, user_ids: Iterable[str]) -> set[str]:
        """Those of these users who were erased."""
        rows = self._fetch("SELECT user_key FROM people WHERE erased_s IS NOT NULL")
        erased = {bytes(row[0]) for row in rows}
        return {one for one in user_ids if self._key(one) in erased} if erased else set()

    def keys(self) -> list[ApiKey]:
        """All API keys, by name."""
        rows = self._fetch(
            "SELECT name, hashed, scopes, created_s, expires_s, user_id"
            " FROM api_keys LEFT JOIN people USING (user_no) ORDER BY name"
        )
        return [
            ApiKey(name, hashed, tuple(json.loads(scopes)), *rest)
            for name, hashed, scopes, *rest in rows
        ]

    def last_cursors(self) -> tuple[int, int]:
        """The cursors of the last event and of the last change of a user."""
        sql = "SELECT (SELECT max(seq) FROM events), (SELECT max(seq) FROM user_fields)"
        events, users = self._fetch(sql)[0]
        return events or 0, users or 0

    def _key(self, text: str) -> bytes:
        return keyed(self.secret, text)


class Writing:
    """What is written to the tables, in one open transaction.

    Args:
        secret: of these tables (`Reading.secret`).
    """

    def __init__(self, transaction: Transaction, secret: bytes) -> None:
        self._run = transaction.run
        self._run_each = transaction.run_each
        self._secret = secret

    def add_events(self, events: Sequence[Event]) -> list[tuple[Outcome, int]]:
        """What becomes of each event, and the cursor of those that are accepted (else 0)."""
        numbers = self._user_numbers({event.user_id for event in events})
        kept = [event for event in events if numbers[event.user_id] is not None]
        returned = self._run_each(
            "INSERT INTO events (event_key, event_id, user_no, item_id, kind, value, time_s,"
            " request_id, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING RETURNING seq",
            [
                (
                    self._key(event.event_id), event.event_id, numbers[event.user_id],
                    event.item_id, event.kind, event.value, event.time_s,
                    event.request_id, event.position,
                )
                for event in kept
            ],
        )  # fmt: skip
        rows = iter(returned)
        outcomes: list[tuple[Outcome, int]] = []
        for event in events:
            if numbers[event.user_id] is None:
                outcomes.append(("erased", 0))
            else:
                row = next(rows)
                outcomes.append(("accepted", row[0]) if row else ("duplicate", 0))
        return outcomes

    def add_slates(self, records: Sequence[SlateRecord]) -> None:
        """Keep slates; of one request the first, of erased users none."""
        numbers = self._user_numbers({one.user_id for one in records if one.user_id is not None})
        self._run_each(
            "INSERT INTO slates (request_key, request_id, user_no, time_s, release_id, slots,"
            " features) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (
                    self._key(one.request_id), one.request_id,
                    None if one.user_id is None else numbers[one.user_id],
                    one.time_s, one.release_id, one.slots, one.features,
                )
                for one in records
                if one.user_id is None or numbers[one.user_id] is not None
            ],
        )  # fmt: skip

    def put_item(self, item_id: str, fields: str | None, time_s: float) -> int | None:
        """Replace what is known of an item (None: deleted); the cursor of the change.

        None, and nothing kept, where it was deleted before.
        """
        before = self._run("SELECT fields FROM items WHERE item_id = ?", (item_id,))
        if fields is not None and before and before[0][0] is None:
            return None
        self._run("DELETE FROM items WHERE item_id = ?", (item_id,))
        sql = "INSERT INTO items (item_id, fields, time_s) VALUES (?, ?, ?) RETURNING seq"
        return self._run(sql, (item_id, fields, time_s))[0][0]

    def put_user(self, user_id: str, fields: str, time_s: float) -> bool:
        """Replace what is known of a user; False, and nothing kept, where they were erased."""
        number = self._user_numbers({user_id})[user_id]
        if number is not None:
            self._replace_fields(number, fields, time_s)
        return number is not None

    def erase_user(self, user_id: str, time_s: float) -> tuple[int, int]:
        """Blank all that tells of a user, and remember that it was; counts of events and slates."""
        number = self._user_numbers({user_id})[user_id]
        if number is None:
            return 0, 0
        events = self._run(
            "UPDATE events SET event_key = NULL, event_id = NULL, user_no = NULL, item_id = NULL,"
            " kind = NULL, value = NULL, time_s = NULL, request_id = NULL, position = NULL"
            " WHERE user_no = ? RETURNING seq",
            (number,),
        )
        slates = self._run(
            "UPDATE slates SET request_key = NULL, request_id = NULL, user_no = NULL,"
            " time_s = NULL, release_id = NULL, slots = NULL, features = NULL"
            " WHERE user_no = ? RETURNING seq",
            (number,),
        )
        self._run("DELETE FROM api_keys WHERE user_no = ?", (number,))
        sql = "UPDATE people SET user_id = NULL, erased_s = ? WHERE user_no = ?"
        self._run(sql, (time_s, number))
        # Who follows the users' changes learns that someone is gone, and not who.
        self._replace_fields(number, None, time_s)
        return len(events), len(slates)

    def add_key(self, key: ApiKey) -> bool:
        """Keep an API key in the place of the one of its name; False where its user was erased."""
        number = None
        if key.user_id is not None:
            number = self._user_numbers({key.user_id})[key.user_id]
            if number is None:
                return False
        self.remove_key(key.name)
        self._run(
            "INSERT INTO api_keys (name, hashed, scopes, created_s, expires_s, user_no)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (key.name, key.hashed, json.dumps(key.scopes), key.created_s, key.expires_s, number),
        )
        return True

    def remove_key(self, name: str) -> bool:
        """Forget an API key; whether there was one."""
        return bool(self._run("DELETE FROM api_keys WHERE name = ? RETURNING seq", (name,)))

    def probe(self) -> None:
        """Write something, to see whether that is possible."""
        self._run("UPDATE meta SET value = value WHERE name = 'secret'")

    def _replace_fields(self, number: int, fields: str | None, time_s: float) -> None:
        blank = "UPDATE user_fields SET user_no = NULL, fields = NULL, time_s = NULL"
        self._run(f"{blank} WHERE user_no = ?", (number,))
        sql = "INSERT INTO user_fields (user_no, fields, time_s) VALUES (?, ?, ?)"
        self._run(sql, (number, fields, time_s))

    def _user_numbers(self, user_ids: set[str]) -> dict[str, int | None]:
        """The number of each user, given to those who have none yet; None: was erased."""
        by_key = {self._key(user_id): user_id for user_id in sorted(user_ids)}
        numbers: dict[str, int | None] = {}
        keys = list(by_key)
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ", ".join("?" * len(chunk))
            sql = f"SELECT user_key, user_no, erased_s FROM people WHERE user_key IN ({marks})"
            for key, number, erased_s in self._run(sql, chunk):
                numbers[by_key[bytes(key)]] = number if erased_s is None else None
        new = [(key, user_id) for key, user_id in by_key.items() if user_id not in numbers]
        sql = "INSERT INTO people (user_key, user_id) VALUES (?, ?) RETURNING user_no"
        for (_, user_id), row in zip(new, self._run_each(sql, new), strict=True):
            numbers[user_id] = row[0] if row else None
        return numbers

    def _key(self, text: str) -> bytes:
        return keyed(self._secret, text)


def keyed(secret: bytes, text: str) -> bytes:
    """What stands for an id where the id itself must not be: its hash, under the store's secret."""
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES, key=secret).digest()


def _changes(rows: list[Row]) -> list[Change]:
    return [
        Change(seq, key, None if fields is None else json.loads(fields), time_s)
        for seq, key, fields, time_s in rows
    ]


def schema_statements(**words: Any) -> list[str]:
    """The statements that make the tables, in a database's own words."""
    return [statement.format(**words) for statement in SCHEMA]


def require_known_version(where: object, version: int) -> None:
    """
    Raises:
        StoreError: the tables are of another version than this program's.
    """
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{where}: was written by a newer candidfeed (schema {version}, this one knows"
            f" {SCHEMA_VERSION}); upgrade candidfeed"
        )
