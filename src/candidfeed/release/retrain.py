"""THE LOOP: what a service has logged, joined to its data set, becomes the next release."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from candidfeed.data.tables import Dataset
from candidfeed.errors import ReleaseError
from candidfeed.evaluation.run import MAX_TEST_USERS
from candidfeed.release.build import Built, build_release
from candidfeed.release.erased import remove_generations_of_erased
from candidfeed.release.join import Joined, join_store
from candidfeed.release.manifest import POINTER
from candidfeed.release.storage import manifest_in_force
from candidfeed.release.store_log import StoreLog, read_store
from candidfeed.store.store import Store
from candidfeed.training.two_stage import TwoStageSettings

Report = Callable[[str], None]


def retrain(
    dataset: Dataset,
    store: Store,
    releases: Path,
    *,
    window_s: float | None,
    now: datetime,
    protocol: str | None,
    seed: int,
    settings: TwoStageSettings,
    max_users: int = MAX_TEST_USERS,
    force: bool = False,
    tell: Callable[[StoreLog, Joined], None] = lambda _log, _joined: None,
    report: Report = lambda _step: None,
    note: Report = lambda _line: None,
) -> Built:
    """Join, build, hold against the release in force, and publish.

    Then no release is kept, but the one in force, that holds somebody who was erased.

    Args:
        store: is read, and may be written meanwhile.
        releases: their folder; the first one may be made here too.
        window_s: within which an event is put down to what was shown; the data set's where None.
        tell: is told what was joined before the training begins.

    Raises:
        StoreError: the store can't be read.
        DataError, ReleaseError, GateError: as `build_release`.
    """
    if window_s is not None:
        dataset = replace(dataset, attribution_s=window_s)
    report("read the store")
    log = read_store(store)
    joined = join_store(dataset, log, erased_of=store.erased_of, now=now)
    tell(log, joined)
    built = build_release(
        joined.dataset, releases, protocol=protocol, seed=seed, settings=settings,
        max_users=max_users, force=force, report=report, note=note,
    )  # fmt: skip
    for name in remove_generations_of_erased(releases, store.erased_of):
        note(f"removed {name}, for it holds somebody who was erased: no rollback to it")
    return built


def require_same_dataset(releases: Path, name: str) -> None:
    """
    Raises:
        ReleaseError: the release in force was made of another data set.
    """
    if not (releases / POINTER).is_file():
        return
    made_of = manifest_in_force(releases).get("dataset")
    if made_of != name:
        raise ReleaseError(
            f"{releases}: the release in force was made of the data set {made_of!r}, and this is"
            f" {name!r}; name that one with --data, or another folder"
        )
