"""Whatever is acknowledged survives a kill, and nothing is counted twice."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from candidfeed.store.store import Store

ROUNDS = 20
WRITER = Path(__file__).with_name("killed_writer.py")


def acknowledged_until_killed(where: str, number: int, n_ids: int) -> list[str]:
    """The ids that a process printed: killed once it has printed so many, and read to the end."""
    command = [sys.executable, str(WRITER), where, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        lines = []
        while len(lines) < n_ids:
            line = process.stdout.readline()
            assert line, "the writer ended by itself"
            lines.append(line)
        process.kill()
        lines += process.stdout.readlines()
    # One write to a pipe is whole up to 4,096 bytes.
    return [line.removesuffix("\n") for line in lines]


def test_a_killed_writer_loses_no_acknowledged_event(
    where: str, opened: Callable[..., Store]
) -> None:
    rng = random.Random(7)
    acknowledged: list[str] = []
    for number in range(ROUNDS if "://" not in where else 3):
        acknowledged += acknowledged_until_killed(where, number, rng.randrange(1, 60))
    store = opened(where)
    kept = [one.event_id for _, one in store.events_after(0, 1_000_000)]
    assert len(kept) == len(set(kept))
    assert set(acknowledged) - set(kept) == set()
    slates = [one.request_id for _, one in store.slates_after(0, 1_000_000)]
    assert len(slates) == len(set(slates))
    store.close()
    if "://" not in where:
        connection = sqlite3.connect(where)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
