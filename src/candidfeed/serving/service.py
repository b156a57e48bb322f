"""All parts of the service, opened and closed together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from candidfeed.release.storage import in_force_since
from candidfeed.serving.engine import Engine
from candidfeed.serving.journal import Journal
from candidfeed.serving.keys import FIRST_KEY, SCOPES, KeyRing
from candidfeed.serving.limits import Buckets
from candidfeed.serving.metrics import Metrics
from candidfeed.serving.people import People
from candidfeed.serving.releases import Releases
from candidfeed.serving.retraining import Retraining
from candidfeed.serving.settings import ServeSettings
from candidfeed.serving.workers import Workers
from candidfeed.store.store import Store


@dataclass(frozen=True)
class Service:
    """What the routes need.

    Attributes:
        folder: of the releases.
        keys: None where nobody is asked for a key.
    """

    folder: Path
    settings: ServeSettings
    store: Store
    people: People
    keys: KeyRing | None
    releases: Releases
    engine: Engine
    workers: Workers
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
        people = People(store)
        return Service(
            folder=folder,
            settings=settings,
            store=store,
            people=people,
            keys=KeyRing(store) if with_keys else None,
            releases=Releases(folder, store, metrics, journal, settings.policy),
            engine=Engine(store, people, metrics, settings),
            workers=Workers(settings.n_workers, settings.n_waiting),
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

    def start(self) -> None:
        """Load the release in force, and go on looking for the next one.

        Raises:
            ReleaseError: there is none, or it can't be read.
            DataError: the policy names what its items don't have.
        """
        self.releases.load()
        self.releases.watch(self.settings.watch_s, self._take_in)

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

    def _take_in(self) -> None:
        """What other processes wrote into the store."""
        if self.store.refresh():
            self.people.forget()
        if self.keys is not None:
            self.keys.refresh()
