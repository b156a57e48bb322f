"""A service on a real socket, over a real store, with the tiny release."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from candidfeed.feed.scoring import tower_inputs
from candidfeed.feed.served import Served
from candidfeed.release.bundle import encode
from candidfeed.release.export import export_function
from candidfeed.release.storage import write_directory
from candidfeed.retrieval.large.history_tower import HistoryTower
from candidfeed.serving.app import make_app
from candidfeed.serving.server import bound
from candidfeed.serving.service import Service
from candidfeed.serving.settings import ServeSettings
from candidfeed.store.store import open_store
from candidfeed.training.settings_file import written
from candidfeed.training.two_stage import TwoStageSettings

# Long enough for a busy machine: tests of deadlines set their own.
PATIENT = {"deadline_ms": 60_000.0, "watch_s": 0.05}


@dataclass(frozen=True)
class Running:
    """A service that answers.

    Attributes:
        client: asks with the first key.
    """

    service: Service
    client: httpx.Client
    key: str
    folder: Path

    def feed(self, user_id: object = None, **asked: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/feed", json={"user_id": user_id, **asked})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def item_ids(self, user_id: object = None, **asked: Any) -> list[Any]:
        return [slot["item_id"] for slot in self.feed(user_id, **asked)["slots"]]

    def send(self, *events: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post("/v1/events", json={"events": list(events)})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, sample: str, **labels: str) -> float:
        found = self.service.metrics.registry.get_sample_value(sample, labels)
        return 0.0 if found is None else found


Start = Callable[..., Running]


def event(event_id: str, user_id: object, item_id: object, **more: Any) -> dict[str, Any]:
    of_release = {"kind": "rating", "value": 5.0, "time_s": 1_760_000_000.0}
    return {"event_id": event_id, "user_id": user_id, "item_id": item_id, **of_release, **more}


@contextmanager
def answering(service: Service, key: str = "") -> Iterator[httpx.Client]:
    """The service on a socket of its own, and a client that asks it with this key."""
    listening = bound("127.0.0.1", 0)
    listening.listen()
    server = uvicorn.Server(
        uvicorn.Config(make_app(service), log_config=None, lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    host, port = listening.getsockname()
    try:
        with httpx.Client(
            base_url=f"http://{host}:{port}", timeout=60.0,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        ) as client:  # fmt: skip
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def running(folder: Path, state: Path, **settings: Any) -> Iterator[Running]:
    store = open_store(str(state / "store.db"))
    chosen = ServeSettings(**{**PATIENT, **settings})
    with Service.open(folder, store, chosen, with_keys=True) as service:
        key = service.first_key() or ""
        service.start()
        with answering(service, key) as client:
            yield Running(service, client, key, folder)


@pytest.fixture
def start(tiny_release: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a service on a copy of the tiny release; ended with the test."""
    with ExitStack() as stack:

        def begin(release: Path = tiny_release, **settings: Any) -> Running:
            folder = tmp_path / "releases"
            shutil.copytree(release, folder)
            return stack.enter_context(running(folder, tmp_path, **settings))

        yield begin


@pytest.fixture(scope="session")
def by_vectors(tiny_served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a user tower as of large catalogues: it sums the vectors of a history."""
    vectors = tiny_served.item_vectors
    tower = HistoryTower(
        n_items=len(vectors),
        n_user_ids=tiny_served.user_map.n_ids,
        n_item_ids=tiny_served.item_map.n_ids,
        dim=vectors.shape[1],
        max_history=64,
        n_hidden=4,
    )
    tower.build()
    tower.turn.assign(np.eye(*tower.turn.shape))
    tower.items.assign(vectors)
    settings = replace(tiny_served.settings, tower_reads_vectors=True)
    inputs = tower_inputs(tiny_served.anonymous, settings, item_vectors=vectors)
    exported = export_function(tower, tower.user_vectors, inputs)
    folder = tmp_path_factory.mktemp("by_vectors") / "releases"
    publish(replace(tiny_served, tower=exported, settings=settings), folder)
    return folder


@pytest.fixture(scope="session")
def shared(tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for tests that leave other tests' users and items alone."""
    with running(tiny_release, tmp_path_factory.mktemp("shared")) as one:
        yield one


@pytest.fixture
def settings_file(tmp_path: Path, tiny_settings: TwoStageSettings) -> Path:
    """For `--settings`: those of the tiny release."""
    path = tmp_path / "settings.toml"
    path.write_text(written(tiny_settings))
    return path


def publish(served: Served, folder: Path, **manifest: Any) -> None:
    """Put this release in force as a build does."""
    write_directory(folder, encode(served), manifest)


def until(is_so: Callable[[], object], what: str) -> None:
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > 240:
            pytest.fail(f"{what} did not come")
        time.sleep(0.02)
