"""All parts of the service, opened and closed together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from candidfeed.feed.steps import Helper
from candidfeed.release.functions import Ahead
from candidfeed.release.storage import in_force_since
from candidfeed.serving.engine import Engine, Work
from candidfeed.serving.journal import Journal
from candidfeed.serving.keys import FIRST_KEY, SCOPES, KeyRing
from candidfeed.serving.limits import Buckets
from candidfeed.serving.makers import Makers
from candidfeed.serving.making import HELPED
from candidfeed.serving.metrics import Metrics
from candidfeed.serving.releases import Releases
from candidfeed.serving.retraining import Retraining
from candidfeed.serving.settings import ServeSettings
from candidfeed.serving.workers import Workers
from candidfeed.store.store import Store

# Feeds that a thread makes at once: more gain little, and each waits for all of them.
_SIDE_BY_SIDE: Final = 16
# Share of the deadline that a feed may wait for others: what would come too late is refused.
_PATIENCE: Final = 0.6


@dataclass(frozen=True)
class Service:
    """What the routes need.

    Attributes:
        folder: of the releases.
        keys: None where nobody is asked for a key.
        helper: of the thread that makes feeds; None where there are others anyway.
    """

    folder: Path
    settings: ServeSettings
    store: Store
    keys: KeyRing | None
    makers: Makers
    releases: Releases
    helper: Helper | None
    engine: Engine
    workers: Workers[Work, bytes]
    metrics: Metrics
    journal: Journal
    request_buckets: Buckets
    event_buckets: Buckets
    _schedules: list[Retraining] = field(default_factory=list)

    @staticmethod
    def open(folder: Path, store: Store, settings: ServeSettings, *, with_keys: bool) -> "Service":
        """
        Args:
            folder: of the releases.
            store: is closed with the service.

        Raises:
            StoreError: the store can't be read.
        """
        metrics, journal = Metrics(), Journal(clock=time.time)
        makers = Makers(
            folder,
            settings.policy,
            metrics,
            journal,
            sample_share=settings.sample_features,
            n_others=settings.n_processes - 1,
            n_own=settings.n_workers,
        )
        is_single = settings.n_workers == settings.n_processes == 1
        helper = Helper(HELPED) if is_single else None
        engine = Engine(store, makers, metrics, settings, helper=helper)
        return Service(
            folder=folder,
            settings=settings,
            store=store,
            keys=KeyRing(store) if with_keys else None,
            makers=makers,
            releases=Releases(folder, store, metrics, journal, settings.policy, makers),
            helper=helper,
            engine=engine,
            # Those of other processes are waited for on threads of this one.
            workers=Workers(
                engine.make,
                n_workers=settings.n_workers + settings.n_processes - 1,
                n_waiting=settings.n_waiting,
                most=_SIDE_BY_SIDE,
                patience_s=_PATIENCE * settings.deadline_ms / 1e3,
            ),
            metrics=metrics,
            journal=journal,
            request_buckets=Buckets(settings.requests_per_s, settings.burst),
            event_buckets=Buckets(settings.events_per_s, 10 * settings.events_per_s),
        )

    def first_key(self) -> str | None:
        """A key for everything, where the store has none yet; it can't be told again."""
        if self.keys is None or self.keys.entries():
            return None
        return self.keys.add(FIRST_KEY, SCOPES, now_s=time.time())

    def start(self, ahead: Ahead | None = None) -> None:
        """Load the release in force, and go on looking for the next one.

        Args:
            ahead: of that release, where it was begun before.

        Raises:
            ReleaseError: there is none, or it can't be read.
            DataError: the policy names what its items don't have.
        """
        self.releases.load(ahead)
        self.releases.watch(self.settings.watch_s, self._take_in)
        self.makers.keep(self._wanted, self.releases.catch_up)

    def retrain_every(
        self, every_s: float, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Run this command so long after a release was put in force, again and again."""
        self._schedules.append(
            Retraining(
                command,
                environment,
                every_s=every_s,
                in_force_s=lambda: in_force_since(self.folder),
                metrics=self.metrics,
                journal=self.journal,
            )
        )

    def close(self) -> None:
        for one in self._schedules:
            one.close()
        self.releases.close()
        self.workers.close()
        if self.helper is not None:
            self.helper.close()
        self.makers.close()
        self.store.close()

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wanted(self) -> str | None:
        live = self.releases.live
        return None if live is None else live.release_id

    def _take_in(self) -> None:
        """What other processes wrote into the store."""
        self.store.refresh()
        if self.keys is not None:
            self.keys.refresh()
