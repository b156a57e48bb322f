"""More processes that make feeds, asked through pipes.

One Python process computes on about one core. What is only read (vectors, features, histories) is
mapped from the release's files, and so shared by all; only the first process has the store and the
sockets. Whatever becomes of the others, it makes by itself what they don't.
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeAlias

from candidfeed.errors import CandidfeedError, StoreError
from candidfeed.feed.policy import Policy
from candidfeed.serving.journal import Journal, Surviving
from candidfeed.serving.maker import Begun, Failed, Follow, Load, Make, Message
from candidfeed.serving.making import Draft, Made
from candidfeed.serving.metrics import Metrics
from candidfeed.store.records import Change

# Not `-m`: what comes through the pipe is of this module, by its name.
_CHILD: Final = "from candidfeed.serving.maker import main; main()"
# How long one may be silent: after that it is ended, and another is started.
_LOAD_S: Final = 120.0
_MAKE_S: Final = 10.0
# How often is looked whether all are there.
_LOOK_S: Final = 1.0

Wanted: TypeAlias = Callable[[], str | None]
CatchUp: TypeAlias = Callable[[str, Callable[[Sequence[Change]], None], Callable[[], None]], None]


class MakerError(CandidfeedError):
    """A process that makes feeds has ended, is silent, or could not do what it was told."""


class _Maker:
    """One process, asked by whoever holds its lock.

    Attributes:
        release_id: of the release that it makes feeds of; None while it has none whose items are
            up to date.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            handed = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(handed)],
                pass_fds=(handed,), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._pipe = Connection(ours.detach())
        self.lock = threading.Lock()
        self.release_id: str | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: Message) -> None:
        """
        Raises:
            MakerError: it has ended.
        """
        try:
            self._pipe.send(message)
        except OSError as error:
            raise MakerError(f"it has ended ({error})") from error

    def ask(self, message: Message, *, within_s: float) -> Any:
        """
        Raises:
            MakerError: it has ended, is silent for longer than that, or could not do it.
        """
        self.tell(message)
        try:
            if not self._pipe.poll(within_s):
                raise MakerError(f"it was silent for {within_s:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise MakerError(f"it has ended ({type(error).__name__})") from error
        if isinstance(answer, Failed):
            raise MakerError(answer.why)
        return answer

    def end(self) -> None:
        # It holds nothing that could be lost.
        self._process.kill()
        self._process.wait()
        self._pipe.close()


class Makers:
    """All of them; one that ends is replaced, and tried no more often than once a second.

    Args:
        n_others: processes beside this one.
        n_own: threads of this one that make feeds before others are asked.
    """

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        metrics: Metrics,
        journal: Journal,
        *,
        sample_share: float,
        n_others: int,
        n_own: int,
    ) -> None:
        self._load = Load(folder, "", policy, sample_share)
        self._metrics, self._journal = metrics, journal
        self._own = threading.BoundedSemaphore(n_own)
        self._n_others = n_others
        # Replaced as a whole, by one thread at a time.
        self._makers: tuple[_Maker, ...] = ()
        self._replacing = threading.Lock()
        self._look = threading.Event()
        self._is_closed = False
        self._keeper: threading.Thread | None = None

    @property
    def pids(self) -> list[int]:
        """Of the other processes."""
        return [maker.pid for maker in self._makers]

    def make(
        self, drafts: Sequence[Draft], here: Callable[[Sequence[Draft]], list[Made]]
    ) -> list[Made]:
        """The feeds: made here, or where enough are, by one that is free and has the release."""
        if not self._makers:
            return here(drafts)
        if self._own.acquire(blocking=False):
            try:
                return here(drafts)
            finally:
                self._own.release()
        maker = self._free({draft.live.release_id for draft in drafts})
        if maker is None:
            return here(drafts)
        began = time.perf_counter()
        try:
            asked = Make([Begun(one.basis, one.left_s, one.degraded) for one in drafts])
            made: list[Made] = maker.ask(asked, within_s=_MAKE_S)
        except MakerError as error:
            self._lost(maker, error)
            return here(drafts)
        finally:
            maker.lock.release()
        away_s = time.perf_counter() - began - sum(sum(one.stages.values()) for one in made)
        return [
            replace(one, stages={**draft.stages, **one.stages, "hand over": away_s / len(made)})
            for draft, one in zip(drafts, made, strict=True)
        ]

    def follow(self, release_id: str, changes: Sequence[Change]) -> None:
        """Those that have this release take in what has changed of its items."""
        # One that has none yet is not waited for: it is told all once it has.
        for maker in [one for one in self._makers if one.release_id == release_id]:
            with maker.lock:
                try:
                    maker.tell(Follow(list(changes)))
                except MakerError as error:
                    self._lost(maker, error)

    def keep(
        self,
        wanted: Wanted,
        catch_up: CatchUp,
    ) -> None:
        """Start them, and see to it that all have the release that is wanted, until `close`.

        Args:
            catch_up: told a release, tells all that has changed of its items since it was built,
                then that this was all, before anything else changes; nothing if it is not live.
        """
        if self._n_others:
            self._keeper = threading.Thread(
                target=self._run, args=(wanted, catch_up), name="makers", daemon=True
            )
            self._keeper.start()

    def renew(self) -> None:
        """Another release is in force, perhaps one that was so before: none is up to date."""
        for maker in self._makers:
            maker.release_id = None
        self._look.set()

    def close(self) -> None:
        self._is_closed = True
        self._look.set()
        if self._keeper is not None:
            self._keeper.join()
        for maker in self._makers:
            maker.end()
        self._makers = ()

    def _free(self, release_ids: Set[str]) -> _Maker | None:
        """One that nobody asks and that has what is asked for, locked."""
        for maker in self._makers:
            if {maker.release_id} == release_ids and maker.lock.acquire(blocking=False):
                if {maker.release_id} == release_ids:
                    return maker
                maker.lock.release()
        return None

    def _run(self, wanted: Wanted, catch_up: CatchUp) -> None:
        while not self._is_closed:
            self._look.clear()
            release_id = wanted()
            if release_id is not None:
                with Surviving(self._journal, "other processes"):
                    self._mend(release_id, catch_up)
            self._metrics.makers.set(sum(one.release_id == release_id for one in self._makers))
            self._look.wait(_LOOK_S)

    def _mend(self, release_id: str, catch_up: CatchUp) -> None:
        while len(self._makers) < self._n_others and not self._is_closed:
            started = _Maker()
            with self._replacing:
                self._makers = (*self._makers, started)
        for maker in self._makers:
            if maker.release_id != release_id:
                try:
                    self._bring(maker, release_id, catch_up)
                except MakerError as error:
                    self._lost(maker, error)
                except StoreError as error:
                    self._journal.write("store not read", why=str(error))

    def _bring(self, maker: _Maker, release_id: str, catch_up: CatchUp) -> None:
        with maker.lock:
            maker.release_id = None
            maker.ask(replace(self._load, release_id=release_id), within_s=_LOAD_S)

        def is_all() -> None:
            maker.release_id = release_id

        catch_up(release_id, lambda changes: maker.tell(Follow(list(changes))), is_all)

    def _lost(self, maker: _Maker, error: MakerError) -> None:
        maker.release_id = None
        with self._replacing:
            if self._is_closed or maker not in self._makers:
                return
            self._makers = tuple(one for one in self._makers if one is not maker)
        maker.end()
        self._metrics.lost_makers.inc()
        self._journal.write("maker lost", pid=maker.pid, why=str(error))
