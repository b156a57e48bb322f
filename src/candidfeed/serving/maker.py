"""A process that makes feeds for the service that started it (`makers.py`).

It reads releases, and nothing else; what it is asked comes through a pipe, and when that is closed
it ends.
"""

import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

from candidfeed.errors import CandidfeedError
from candidfeed.feed.policy import Policy
from candidfeed.release.bundle import read_release
from candidfeed.serving.basis import Basis
from candidfeed.serving.journal import Journal, all_in
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.making import Draft, FeedMaker
from candidfeed.serving.memory import give_back
from candidfeed.store.records import Change


@dataclass(frozen=True)
class Load:
    """Have this release in memory, in the place of the one before; answered by None."""

    folder: Path
    release_id: str
    policy: Policy
    sample_share: float


@dataclass(frozen=True)
class Follow:
    """Take in what has changed of its items; not answered."""

    changes: list[Change]


@dataclass(frozen=True)
class Begun:
    """What a `Draft` is begun with, but for its release."""

    basis: Basis
    left_s: float
    degraded: list[str]


@dataclass(frozen=True)
class Make:
    """Make these feeds; answered by a list of `Made`."""

    feeds: list[Begun]


Message: TypeAlias = Load | Follow | Make


@dataclass(frozen=True)
class Failed:
    """Answers what could not be done."""

    why: str


def run(pipe: Connection) -> None:
    """Until the pipe is closed."""
    live: LiveRelease | None = None
    maker: FeedMaker | None = None
    while True:
        try:
            message: Message = pipe.recv()
        except (EOFError, ConnectionError):
            return
        match message:
            case Load():
                try:
                    live = _loaded(message, live)
                except CandidfeedError as error:
                    pipe.send(Failed(str(error)))
                    continue
                maker = FeedMaker(message.policy, sample_share=message.sample_share)
                pipe.send(None)
            case Follow():
                assert live is not None
                live.follow(message.changes)
            case Make():
                assert live is not None
                assert maker is not None
                pipe.send(
                    maker.make(
                        [Draft(one.basis, live, one.left_s, one.degraded) for one in message.feeds]
                    )
                )


def _loaded(asked: Load, before: LiveRelease | None) -> LiveRelease:
    live = LiveRelease(read_release(asked.folder, asked.release_id))
    live.warm_up(asked.policy, None if before is None else before.served)
    give_back()
    return live


def main() -> None:
    """The process; its only argument is the number of the pipe's descriptor."""
    # Both are for the process that started this one, whose end is this one's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with all_in(Journal(clock=time.time)):
        run(Connection(int(sys.argv[1])))
