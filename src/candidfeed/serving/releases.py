"""Which release is served: the one that the pointer names, loaded beside the one before."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from candidfeed.errors import CandidfeedError, ReleaseError, StoreError
from candidfeed.feed.policy import Policy
from candidfeed.release.bundle import decode
from candidfeed.release.functions import Ahead
from candidfeed.release.storage import in_force_since, pointer_of, read_directory
from candidfeed.serving.journal import Journal, Surviving
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.makers import Makers
from candidfeed.serving.metrics import Metrics
from candidfeed.store.records import Change
from candidfeed.store.store import Store

_PAGE: Final = 10_000


class Releases:
    """The release in force, swapped by one assignment: a request keeps the one it began with.

    A release that can't be loaded leaves the one before in force, is told and counted, and is tried
    again when the pointer changes.

    Attributes:
        live: None until the first is loaded.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        metrics: Metrics,
        journal: Journal,
        policy: Policy,
        makers: Makers,
    ) -> None:
        self._folder, self._store, self._policy = folder, store, policy
        self._metrics, self._journal, self._makers = metrics, journal, makers
        self.live: LiveRelease | None = None
        self._tried = b""
        self._is_lost = False
        self._cursor = 0
        self._following = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def load(self, ahead: Ahead | None = None) -> None:
        """Put the release that the pointer names in force.

        Args:
            ahead: of that release, where it was begun before.

        Raises:
            ReleaseError: there is none, or it can't be read; the one before stays.
            DataError: the policy names what its items don't have; likewise.
        """
        start, since_s = time.perf_counter(), in_force_since(self._folder)
        if ahead is None:
            self._tried = pointer_of(self._folder)
            served = decode(read_directory(self._folder))
        else:
            self._tried = ahead.opening.pointer
            served = decode(ahead.opening.opened.result(), ahead.functions)
        live = LiveRelease(served)
        live.warm_up(self._policy, None if self.live is None else self.live.served)
        with self._following:
            self._cursor = 0
            self._follow(live)
            self.live = live
            self._makers.renew()
        for one in (self._metrics.release_s, self._metrics.release_loaded_s):
            one.clear()
        self._metrics.release_s.labels(live.release_id).set(since_s)
        self._metrics.release_loaded_s.labels(live.release_id).set_to_current_time()
        self._metrics.releases.labels("loaded").inc()
        took_s = round(time.perf_counter() - start, 2)
        self._journal.write("release in force", release_id=live.release_id, took_s=took_s)

    def follow(self) -> None:
        """Take in what the store says of items since the last call.

        Raises:
            StoreError: the store can't be read.
        """
        with self._following:
            if self.live is not None:
                self._follow(self.live)

    def catch_up(
        self,
        release_id: str,
        tell: Callable[[Sequence[Change]], None],
        is_all: Callable[[], None],
    ) -> None:
        """Tell all that has changed of the items of the release in force, then that this was all.

        What changes later is told to `Makers.follow`. Nothing is told of another release.

        Raises:
            StoreError: the store can't be read.
        """
        with self._following:
            if self.live is None or self.live.release_id != release_id:
                return
            cursor = 0
            while cursor < self._cursor and (page := self._store.items_after(cursor, _PAGE)):
                tell(page)
                cursor = page[-1].cursor
            is_all()

    def watch(self, every_s: float, also: Callable[[], None]) -> None:
        """Look at the pointer, and at what other processes wrote, again and again until `close`.

        Args:
            also: is called each time.
        """
        self._watcher = threading.Thread(
            target=self._look, args=(every_s, also), name="releases", daemon=True
        )
        self._watcher.start()

    def close(self) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()

    def _look(self, every_s: float, also: Callable[[], None]) -> None:
        while not self._stop.wait(every_s):
            with Surviving(self._journal, "the next release"):
                self._take_next()
            with Surviving(self._journal, "what changes"):
                try:
                    self.follow()
                    also()
                except StoreError as error:
                    self._journal.write("store not read", why=str(error))

    def _take_next(self) -> None:
        try:
            if self._is_replaced():
                self.load()
        except CandidfeedError as error:
            self._journal.write("release not loaded", why=str(error))
            self._metrics.releases.labels("failed").inc()

    def _is_replaced(self) -> bool:
        """
        Raises:
            ReleaseError: that can't be told any longer, for the first time.
        """
        try:
            pointer = pointer_of(self._folder)
        except ReleaseError:
            # What was loaded is in memory, and goes on being served.
            if self._is_lost:
                return False
            self._is_lost = True
            raise
        self._is_lost = False
        return pointer != self._tried

    def _follow(self, live: LiveRelease) -> None:
        while page := self._store.items_after(self._cursor, _PAGE):
            live.follow(page)
            self._makers.follow(live.release_id, page)
            self._cursor = page[-1].cursor
