"""Appends events to a store until it is killed, for `test_killed.py`: WHERE ROUND.

Four threads send, and each id is printed once its batch is acknowledged. A process of its own,
because it dies.
"""

import os
import sys
from itertools import count
from threading import Thread

from candidfeed.store.records import Event, SlateRecord
from candidfeed.store.store import Store, open_store


def send(store: Store, name: str) -> None:
    for n in count():
        batch = [
            Event(f"{name} {n} {m}", f"user {m}", f"item {n}", "click", None, float(n))
            for m in range(1 + n % 5)
        ]
        store.log_slate(SlateRecord(f"{name} {n}", "user 0", float(n), "release", b"slots" * 50))
        store.append_events(batch)
        # The ids of the batch before come again: counted once.
        told = "".join(f"{one.event_id}\n" for one in batch)
        os.write(1, told.encode())
        assert set(store.append_events(batch).outcomes) == {"duplicate"}


if __name__ == "__main__":
    where, number = sys.argv[1:]
    opened = open_store(where)
    os.write(1, b"ready\n")
    threads = [Thread(target=send, args=(opened, f"{number}-{thread}")) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
