"""What is saved is what is loaded, by many processes at once; what was changed is refused."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from candidfeed.errors import ReleaseError
from candidfeed.retrieval.index import files as index_files
from candidfeed.retrieval.index.state import EXACT, INVERTED
from candidfeed.retrieval.index.vector_index import IndexSettings, VectorIndex

QUERY = np.ones(8, np.float32)


@pytest.fixture(params=[EXACT, INVERTED])
def index(request: pytest.FixtureRequest) -> VectorIndex:
    """2,000 items, one of them removed and two added since the build."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2_000, 8)) * np.exp(rng.normal(size=(2_000, 1)))
    settings = IndexSettings(exact_below=10_000 if request.param == EXACT else 10, recall_k=50)
    built = VectorIndex.build(vectors, queries=rng.normal(size=(60, 8)), settings=settings)
    assert built.report.kind == request.param
    built.remove(built.search(QUERY, 1).rows)
    built.add(np.array([2_000, 5]), rng.normal(size=(2, 8)) * 10)
    return built


def test_an_index_is_loaded_as_it_was_with_what_has_changed_since(
    index: VectorIndex, tmp_path: Path
) -> None:
    index.save(tmp_path / "new" / "saved")
    loaded = VectorIndex.load(tmp_path / "new" / "saved")
    assert (loaded.report, len(loaded)) == (index.report, len(index))
    assert isinstance(loaded.base.vectors.base, np.memmap)
    rng = np.random.default_rng(1)
    for query in rng.normal(size=(20, 8)).astype(np.float32):
        for chosen in ({}, {"deny": np.arange(99)}, {"allow": np.arange(1_000)}):
            found, expected = (each.search(query, 60, **chosen) for each in (loaded, index))
            np.testing.assert_array_equal(found.rows, expected.rows)
            np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_loaded_index_takes_changes_and_leaves_its_files_alone(
    index: VectorIndex, tmp_path: Path
) -> None:
    index.save(tmp_path / "saved")
    loaded = VectorIndex.load(tmp_path / "saved")
    loaded.add(np.array([9_000]), QUERY[None] * 1_000)
    loaded.remove(np.arange(100))
    assert loaded.search(QUERY, 1).rows.tolist() == [9_000]
    assert len(VectorIndex.load(tmp_path / "saved")) == len(index)
    loaded.save(tmp_path / "again")
    assert VectorIndex.load(tmp_path / "again").search(QUERY, 1).rows.tolist() == [9_000]


def test_a_loaded_index_is_saved_whole(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "first")
    VectorIndex.load(tmp_path / "first").save(tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )
    assert first == second


def test_two_processes_load_one_index_at_the_same_time(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "saved")
    script = """
import sys
from pathlib import Path
import numpy as np
from candidfeed.retrieval.index.vector_index import VectorIndex
index = VectorIndex.load(Path(sys.argv[1]))
print("loaded", flush=True)
sys.stdin.readline()
print(*index.search(np.ones(8, np.float32), 20).rows)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "saved")]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == "loaded\n"
    # Both hold it now; only then are both asked.
    answers = [each.communicate("go\n", timeout=60)[0].split() for each in both]
    expected = [str(row) for row in index.search(QUERY, 20).rows]
    assert answers == [expected, expected]
    assert [each.returncode for each in both] == [0, 0]


def test_a_changed_byte_in_any_file_is_refused_before_it_is_read(
    index: VectorIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.save(tmp_path / "saved")
    opened = []
    monkeypatch.setattr(index_files, "open_checked", opened.append)
    files = sorted((tmp_path / "saved").iterdir())
    assert len(files) == (5 if index.report.kind == INVERTED else 4)
    for path in files:
        intact = path.read_bytes()
        place = len(intact) // 3
        path.write_bytes(intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :])
        with pytest.raises(ReleaseError, match=r"save (the index|it) again"):
            VectorIndex.load(tmp_path / "saved")
        path.write_bytes(intact)
    assert opened == []
    monkeypatch.undo()
    assert len(VectorIndex.load(tmp_path / "saved")) == len(index)


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond this size."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))


def test_a_disk_without_room_for_the_very_last_byte_is_noticed(
    index: VectorIndex, tmp_path: Path
) -> None:
    large = {name: one for name, one in index_files.files_of(index.parts).items() if callable(one)}
    assert len(large) == (2 if index.report.kind == INVERTED else 1)
    for name, write in large.items():
        write(tmp_path / name)
        with (
            room_for((tmp_path / name).stat().st_size - 1),
            pytest.raises(OSError, match="File too large"),
        ):
            write(tmp_path / "again")


def test_an_index_that_finds_no_room_leaves_nothing_behind(
    index: VectorIndex, tmp_path: Path
) -> None:
    with (
        room_for(10_000),
        pytest.raises(ReleaseError, match="writing the index failed: File too large"),
    ):
        index.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_shortened_file_is_refused(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "saved")
    for path in sorted((tmp_path / "saved").iterdir()):
        intact = path.read_bytes()
        path.write_bytes(intact[: len(intact) // 2])
        with pytest.raises(ReleaseError, match="saved"):
            VectorIndex.load(tmp_path / "saved")
        path.unlink()
        with pytest.raises(ReleaseError, match="can't be read: No such file"):
            VectorIndex.load(tmp_path / "saved")
        path.write_bytes(intact)


def test_what_stands_at_the_place_already_is_left_alone(index: VectorIndex, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "mine.txt").write_text("mine")
    with pytest.raises(ReleaseError, match="is there already"):
        index.save(tmp_path / "saved")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReleaseError, match="writing the index failed"):
        index.save(tmp_path / "file" / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "saved"]
    assert (tmp_path / "saved" / "mine.txt").read_text() == "mine"


def test_files_of_another_version_are_told_as_such(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "saved")
    numbers = tmp_path / "saved" / "index.json"
    sums = tmp_path / "saved" / "index.sha256"
    old = subprocess.run(["sha256sum", numbers], capture_output=True, text=True, check=True)
    numbers.write_text(numbers.read_text().replace('"format": 2', '"format": 3'))
    new = subprocess.run(["sha256sum", numbers], capture_output=True, text=True, check=True)
    sums.write_text(sums.read_text().replace(old.stdout[:64], new.stdout[:64]))
    with pytest.raises(ReleaseError, match="index of format 3, not 2"):
        VectorIndex.load(tmp_path / "saved")
