"""A user is erased, and proved to be gone from the store and from every release."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import Typed, item_id, user_id
from tests.serving.conftest import publish

from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import ReleaseError
from candidfeed.feed.served import Served
from candidfeed.release.erased import remove_generations_of_erased, users_in
from candidfeed.release.storage import read_directory, roll_back
from candidfeed.store.records import Event, SlateRecord
from candidfeed.store.store import open_store

GONE, OTHER = user_id(5), user_id(6)


@pytest.fixture
def releases(tiny_release: Path, tmp_path: Path) -> Path:
    """With a store beside them that knows two users."""
    folder = tmp_path / "releases"
    shutil.copytree(tiny_release, folder)
    with open_store(str(tmp_path / "releases-state" / "store.db")) as store:
        events = [
            Event(f"e{n}", one, item_id(1), "rating", 5.0, 1.7e9 + n)
            for n, one in enumerate((GONE, OTHER, "7"))
        ]
        store.append_events(events)
        store.log_slate(SlateRecord("r1", GONE, 1.7e9, "0001-abc", b"{}"))
        store.flush()
    return folder


def without(served: Served, gone: str) -> Served:
    """As the next build would make it: somebody else in their row."""
    ids = served.users.ids
    return replace(served, users=Vocabulary(ids.set(ids == gone, "somebody else")))


def test_a_user_is_found_until_the_next_release_and_then_nowhere(
    releases: Path, tiny_served: Served, tiny_log: Path, here: Path, typed: Typed
) -> None:
    def found(*more: object) -> dict[str, int]:
        code, _, _ = typed("erase", releases, GONE, "--check", "--json", "found.json", *more)
        told = json.loads((here / "found.json").read_bytes())
        assert code == (1 if told["n_found"] else 0)
        return {f"{one['place']}: {one['looked_at']}": one["n_found"] for one in told["traces"]}

    first = read_directory(releases).release_id
    before = found()
    assert before["store: rows of events"] == before["store: rows of slates"] == 1
    assert before["store: bytes of store.db"] >= 1
    assert before[f"{first}: tables of users"] == 1

    code, out, _ = typed("erase", releases, GONE)
    assert (code, out.split(";")[0]) == (0, "Erased: 1 events and 1 slates")
    in_store = {place: n for place, n in found().items() if place.startswith("store")}
    assert set(in_store.values()) == {0}
    assert found()[f"{first}: tables of users"] == 1

    publish(without(tiny_served, GONE), releases)
    second = read_directory(releases).release_id
    with open_store(f"{releases}-state/store.db", read_only=True) as store:
        assert remove_generations_of_erased(releases, store.erased_of) == [first]
        assert remove_generations_of_erased(releases, store.erased_of) == []
    assert [one.name for one in releases.iterdir() if one.is_dir()] == [second]
    assert set(found().values()) == {0}
    with pytest.raises(ReleaseError, match="removes what holds somebody who was erased"):
        roll_back(releases)
    # Their own log is told of, and changes nothing.
    assert set(found("--data", tiny_log).values()) == {0}
    assert json.loads((here / "found.json").read_bytes())["n_events_in_data"] > 0
    # Another user stays.
    assert OTHER in users_in(releases / second)
    assert typed("erase", releases, OTHER, "--check")[0] == 1


def test_a_short_number_is_looked_for_where_it_is_an_id(
    releases: Path, here: Path, typed: Typed
) -> None:
    assert typed("erase", releases, "7")[0] == 0
    code, out, _ = typed("erase", releases, "7", "--check")
    assert (code, "bytes" in out, "refuses" in out) == (0, False, True)


def test_a_generation_in_force_is_never_removed(releases: Path, tiny_served: Served) -> None:
    first = read_directory(releases).release_id
    publish(without(tiny_served, GONE), releases)
    roll_back(releases)
    assert remove_generations_of_erased(releases, lambda ids: {GONE} & set(ids)) == []
    assert read_directory(releases).release_id == first


def test_a_store_that_a_service_holds_is_told_to_be_asked_by_it(
    releases: Path, typed: Typed
) -> None:
    with open_store(f"{releases}-state/store.db"):
        code, _, told = typed("erase", releases, GONE)
        assert (code, "DELETE /v1/users/{id}" in told) == (2, True)
        assert typed("erase", releases, GONE, "--check")[0] == 1


def test_a_store_that_is_not_there_is_not_made(
    tiny_release: Path, here: Path, typed: Typed
) -> None:
    code, _, told = typed("erase", tiny_release, GONE, "--store", "none.db")
    assert (code, "none.db" in told) == (2, True)
    assert list(here.iterdir()) == []
