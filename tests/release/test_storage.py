"""A release is whole or not there; what was changed after the build is refused."""

import errno
import hashlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidfeed.errors import ReleaseError
from candidfeed.release import storage
from candidfeed.release.manifest import FORMAT, MANIFEST, POINTER, FileEntry
from candidfeed.release.storage import (
    OpenedDirectory,
    is_kept,
    open_ahead,
    read_directory,
    read_generation,
    refuse_foreign_folder,
    training_folder,
    write_directory,
)

FILES = {"weights.safetensors": b"\x00\x01\x02" * 20, "items.parquet": b"PAR1", "empty": b""}
CRASH_POINTS = Path(__file__).with_name("crash_points.py")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    target = tmp_path / "release"
    write_directory(target, FILES, {"dataset": "tiny"})
    return target


def content(opened: OpenedDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in opened.path.iterdir() if path.name != MANIFEST}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with its bytes."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def seal(target: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest and make the digests fit again, as a faulty writer would."""
    generation = read_directory(target).path
    listing = json.loads((generation / MANIFEST).read_bytes())
    changed = change(listing)
    replaced = isinstance(changed, list | dict)
    seal_bytes(target, generation, json.dumps(changed if replaced else listing).encode())


def seal_bytes(target: Path, generation: Path, encoded: bytes) -> None:
    (generation / MANIFEST).write_bytes(encoded)
    digest = hashlib.sha256(encoded).hexdigest()
    release_id = f"0001-{digest[:12]}"
    generation.rename(target / release_id)
    (target / POINTER).write_text(f"candidfeed {FORMAT} {release_id} {digest}\n")


# What is written is what is read


def test_what_was_written_is_read_back(release: Path) -> None:
    opened = read_directory(release)
    assert content(opened) == FILES
    assert opened.manifest == {"dataset": "tiny"}
    assert opened.path.name == opened.release_id
    assert opened.path.parent == release


def test_a_release_is_opened_while_something_else_is_done(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    something_else = threading.Event()

    def read_afterwards(target: Path) -> OpenedDirectory:
        assert something_else.wait(60)
        return read_directory(target)

    monkeypatch.setattr(storage, "read_directory", read_afterwards)
    opening = open_ahead(release)
    assert not opening.opened.done()
    something_else.set()
    assert content(opening.opened.result()) == FILES


@settings(max_examples=30)
@given(
    files=st.dictionaries(st.from_regex(r"[a-z_][a-z0-9._-]{0,20}", fullmatch=True), st.binary()),
    manifest=st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.integers() | st.text("aé😀")
    ),
)
def test_any_files_and_any_manifest_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], manifest: dict
) -> None:
    target = tmp_path_factory.mktemp("any") / "release"
    write_directory(target, files, manifest)
    opened = read_directory(target)
    assert (content(opened), opened.manifest) == (files, manifest)


def test_the_manifest_gives_the_size_and_sha256_of_each_file(release: Path) -> None:
    listing = json.loads((read_directory(release).path / MANIFEST).read_bytes())
    assert listing["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in FILES.items()
    }


def test_a_function_writes_its_file_at_the_path_it_is_given(tmp_path: Path) -> None:
    write_directory(tmp_path / "r", {"a.txt": lambda path: path.write_text("by hand") and None}, {})
    assert content(read_directory(tmp_path / "r")) == {"a.txt": b"by hand"}


def test_the_folders_above_are_made(tmp_path: Path) -> None:
    target = tmp_path / "releases" / "today" / "demo"
    write_directory(target, FILES, {})
    assert content(read_directory(target)) == FILES


def test_an_empty_folder_becomes_a_release(tmp_path: Path) -> None:
    write_directory(tmp_path, FILES, {})
    assert content(read_directory(tmp_path)) == FILES


def test_a_release_named_by_a_symbolic_link_is_written_and_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_directory(tmp_path / "link", FILES, {})
    assert content(read_directory(tmp_path / "real")) == FILES
    assert content(read_directory(tmp_path / "link")) == FILES


def test_a_second_build_replaces_the_first_and_keeps_it_for_rollback(release: Path) -> None:
    first = read_directory(release)
    write_directory(release, {"other": b"new"}, {"n": 2})
    second = read_directory(release)
    assert (content(second), second.manifest) == ({"other": b"new"}, {"n": 2})
    assert content(first) == FILES
    write_directory(release, {"other": b"newer"}, {"n": 3})
    third = read_directory(release)
    names = sorted(path.name for path in release.iterdir())
    assert names == sorted([second.release_id, third.release_id, POINTER])


def test_one_that_is_kept_is_read_by_its_name_and_compared_as_well(release: Path) -> None:
    first = read_directory(release)
    write_directory(release, {"a.txt": b"new"}, {"k": 2})
    assert read_generation(release, first.release_id) == first
    assert is_kept(release, first.release_id)
    (first.path / MANIFEST).write_bytes(b"{}")
    with pytest.raises(ReleaseError, match="is not what was built"):
        read_generation(release, first.release_id)
    write_directory(release, {"a.txt": b"newer"}, {"k": 3})
    assert not is_kept(release, first.release_id)
    for name in (first.release_id, "..", "current"):
        with pytest.raises(ReleaseError, match="is not kept here"):
            read_generation(release, name)


def test_the_same_content_built_twice_is_two_generations(release: Path) -> None:
    first = read_directory(release)
    write_directory(release, FILES, {"dataset": "tiny"})
    second = read_directory(release)
    assert (first.release_id[:4], second.release_id[:4]) == ("0001", "0002")
    assert first.release_id[4:] == second.release_id[4:]
    assert content(second) == FILES


def test_a_build_mends_a_release_that_was_damaged(release: Path) -> None:
    (read_directory(release).path / "items.parquet").write_bytes(b"PAR2")
    write_directory(release, FILES, {})
    assert content(read_directory(release)) == FILES
    (release / POINTER).write_bytes(b"candidfeee\xff")
    write_directory(release, FILES, {})
    assert content(read_directory(release)) == FILES


def test_a_reader_follows_when_its_generation_is_replaced_meanwhile(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_files = storage._check_files

    def check_after_two_builds(folder: Path, entries: dict[str, FileEntry]) -> None:
        # Once: a build reads back what it wrote.
        monkeypatch.undo()
        for n in (1, 2):
            write_directory(release, FILES, {"later": n})
        check_files(folder, entries)

    monkeypatch.setattr(storage, "_check_files", check_after_two_builds)
    assert read_directory(release).manifest == {"later": 2}


# What is refused when it is read


def test_a_flipped_byte_anywhere_is_refused(release: Path) -> None:
    paths = [path for path in release.rglob("*") if path.is_file()]
    assert {path.name for path in paths} == {POINTER, MANIFEST, *FILES}
    noise = random.Random(7)
    for path in paths:
        whole = path.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= noise.randrange(1, 256)
            path.write_bytes(changed)
            with pytest.raises(ReleaseError):
                read_directory(release)
        path.write_bytes(whole)
    assert content(read_directory(release)) == FILES


def test_a_file_cut_short_or_grown_is_refused(release: Path) -> None:
    for path in [path for path in release.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        shorter = [whole[:length] for length in range(len(whole))]
        for changed in [*shorter, whole + b"\n", whole + b"\x00"]:
            path.write_bytes(changed)
            with pytest.raises(ReleaseError):
                read_directory(release)
        path.write_bytes(whole)


def test_a_changed_byte_is_told_with_the_file_both_digests_and_the_mend(release: Path) -> None:
    path = read_directory(release).path / "items.parquet"
    path.write_bytes(b"PAR2")
    expected, came = (hashlib.sha256(data).hexdigest() for data in (b"PAR1", b"PAR2"))
    with pytest.raises(ReleaseError) as refusal:
        read_directory(release)
    assert str(refusal.value) == (
        f"{path}: sha256 expected {expected}, came {came};"
        " the release was changed after it was built; build it again or copy it anew"
    )


def test_a_wrong_size_is_told_before_any_digest_is_taken(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (read_directory(release).path / "items.parquet").write_bytes(b"PA")
    monkeypatch.delattr("candidfeed.release.storage._sha256")
    with pytest.raises(ReleaseError, match=r"items\.parquet: size in bytes expected 4, came 2;"):
        read_directory(release)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_refused(release: Path, name: str) -> None:
    (read_directory(release).path / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name}: expected a file, found nothing"):
        read_directory(release)


@pytest.mark.parametrize("name", ["extra.bin", ".hidden", "manifest.json.bak"])
def test_an_extra_file_is_refused(release: Path, name: str) -> None:
    (read_directory(release).path / name).write_bytes(b"")
    with pytest.raises(ReleaseError, match=f"{name}: is not part of the release"):
        read_directory(release)


def test_a_symbolic_link_is_refused_even_to_the_same_bytes(release: Path, tmp_path: Path) -> None:
    for path in [path for path in release.rglob("*") if path.is_file()]:
        elsewhere = path.rename(tmp_path / "elsewhere")
        path.symlink_to(elsewhere)
        with pytest.raises(ReleaseError, match="found a symbolic link"):
            read_directory(release)
        path.unlink()
        elsewhere.rename(path)
    generation = read_directory(release).path
    elsewhere = generation.rename(tmp_path / "elsewhere")
    generation.symlink_to(elsewhere)
    with pytest.raises(ReleaseError, match="expected a folder, found a symbolic link"):
        read_directory(release)


def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused(release: Path) -> None:
    path = read_directory(release).path / "empty"
    path.unlink()
    path.mkdir()
    with pytest.raises(ReleaseError, match="empty: expected a file, found a folder"):
        read_directory(release)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ReleaseError, match="empty: expected a file, found a special file"):
        read_directory(release)


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", True, None])
def test_an_unknown_format_is_refused_before_the_rest_is_looked_at(
    release: Path, version: object
) -> None:
    seal(release, lambda listing: {"format": version, "anything": listing})
    with pytest.raises(ReleaseError, match=f"written in format {version!r}, this candidfeed"):
        read_directory(release)


def test_a_pointer_of_another_format_is_refused(release: Path) -> None:
    line = (release / POINTER).read_bytes()
    (release / POINTER).write_bytes(line.replace(b"candidfeed 2 ", b"candidfeed 3 "))
    with pytest.raises(ReleaseError, match="current: written in format 3, this candidfeed"):
        read_directory(release)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda listing: [listing], "an object at the top"),
        (lambda listing: listing.pop("candidfeed"), "a version under 'candidfeed'"),
        (lambda listing: listing.update(release=None), "an object under 'release'"),
        (lambda listing: listing.update(files=["a"]), "an object under 'files'"),
        (lambda listing: listing["files"].update(empty=3), "a size and a sha256 for 'empty'"),
        (lambda listing: listing["files"]["empty"].pop("size"), "a size and a sha256"),
        (lambda listing: listing["files"]["empty"].update(size=-1), "a size and a sha256"),
        (lambda listing: listing["files"]["empty"].update(size=True), "a size and a sha256"),
        (lambda listing: listing["files"]["empty"].update(size=0.0), "a size and a sha256"),
        (lambda listing: listing["files"]["empty"].update(sha256="E3"), "a size and a sha256"),
        (lambda listing: listing["files"]["empty"].update(mode=7), "a size and a sha256"),
    ],
)
def test_a_manifest_of_a_wrong_shape_is_refused(
    release: Path, change: Callable[[dict], object], expected: str
) -> None:
    seal(release, change)
    with pytest.raises(ReleaseError, match=f"{MANIFEST}: expected {expected}"):
        read_directory(release)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/b", "..", ".", "", MANIFEST, "é"]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(release: Path, name: str) -> None:
    entry = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    seal(release, lambda listing: listing["files"].update({name: entry}))
    with pytest.raises(ReleaseError, match="expected plain file names under 'files'"):
        read_directory(release)


@pytest.mark.parametrize("encoded", [b"", b"{", b"\xff\xfe", b'{"format": 1', b"\x80\x04N."])
def test_a_manifest_that_is_no_json_is_refused(release: Path, encoded: bytes) -> None:
    seal_bytes(release, read_directory(release).path, encoded)
    with pytest.raises(ReleaseError, match=f"{MANIFEST}: is no JSON"):
        read_directory(release)


def test_what_is_no_release_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        ReleaseError, match=r"no such folder; make a release with 'candidfeed build"
    ):
        read_directory(tmp_path / "nothing")
    with pytest.raises(ReleaseError, match=r"holds no release \(no file 'current'"):
        read_directory(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReleaseError, match="is a file; name the folder of a release"):
        read_directory(tmp_path / "file")


# What is refused when it is written


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/etc/x", ".hidden", "", MANIFEST, "x" * 101, "é"]
)
def test_a_file_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="can't be the name of a file"):
        write_directory(tmp_path / "r", {name: b""}, {})
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_manifest_with_nan_or_infinity_is_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_directory(tmp_path / "r", FILES, {"loss": number})
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", ["notes.txt", POINTER, "0001-notes", ".git", "0001-0123456789ab"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(ReleaseError, match=r"is no release and not empty \(it holds"):
        write_directory(tmp_path, FILES, {})
    assert snapshot(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ReleaseError, match="is a file; name a folder"):
        write_directory(path, FILES, {})
    with pytest.raises(ReleaseError, match=r"is a file|Not a directory"):
        write_directory(path / "below", FILES, {})
    assert snapshot(tmp_path) == {str(path): b"mine"}


def test_a_file_that_a_person_put_beside_the_generations_stays(release: Path) -> None:
    (release / "NOTES.txt").write_text("mine")
    write_directory(release, FILES, {})
    assert (release / "NOTES.txt").read_text() == "mine"


def test_two_builds_at_once_are_refused(release: Path) -> None:
    def build_too(_: Path) -> None:
        write_directory(release, FILES, {"second": True})

    with pytest.raises(ReleaseError, match="another build is writing there"):
        write_directory(release, {"a": build_too}, {"first": True})
    assert read_directory(release).manifest == {"dataset": "tiny"}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.write_bytes(b"") or path.with_name("beside").touch(),
    ],
)
def test_a_function_that_writes_something_else_is_refused(
    release: Path, write: Callable[[Path], None]
) -> None:
    before = snapshot(release)
    with pytest.raises(ValueError, match=r"release: .*(a function made|beside the files)"):
        write_directory(release, {"a": write}, {})
    assert snapshot(release) == before


# What fails in the middle


def failing(error: BaseException) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise error

    return write


@pytest.mark.parametrize("n", range(5))
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_at_any_file_leaves_what_was_there(tmp_path: Path, n: int, old: bool) -> None:
    target = tmp_path / "above" / "release"
    if old:
        write_directory(target, FILES, {})
    before = snapshot(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    files = {f"file-{i}": failing(full) if i == n else b"x" * 5_000 for i in range(5)}
    with pytest.raises(ReleaseError, match=f"writing 'file-{n}' failed: the disk is full; free"):
        write_directory(target, files, {})
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), RuntimeError("boom")])
def test_an_interrupted_or_failed_build_leaves_what_was_there(
    release: Path, error: BaseException
) -> None:
    before = snapshot(release)
    with pytest.raises(type(error)):
        write_directory(release, {"a": b"x", "b": failing(error)}, {})
    assert snapshot(release) == before


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename", "pathlib.Path.replace"])
def test_a_disk_that_fails_at_any_flush_or_rename_leaves_what_was_there(
    release: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = snapshot(release)
    real = {"os.fsync": os.fsync}.get(call) or getattr(Path, call.rpartition(".")[2])
    failures = 0
    for n in range(100):
        calls = iter(range(100))

        def fails_at_n(*args: object, n: int = n, calls: Iterator[int] = calls) -> object:
            if next(calls) == n:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        monkeypatch.setattr(call, fails_at_n)
        try:
            write_directory(release, {"new": b"new"}, {})
        except ReleaseError:
            failures += 1
        monkeypatch.undo()
        if read_directory(release).release_id.startswith("0002"):
            break
        assert snapshot(release) == before
    assert failures >= 1


def test_an_interrupt_after_the_switch_keeps_the_new_release(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_replace = Path.replace

    def replace_then_interrupt(self: Path, other: Path) -> Path:
        real_replace(self, other)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_directory(release, {"new": b"new"}, {})
    assert content(read_directory(release)) == {"new": b"new"}


def in_a_process_with_small_files(script: str, *arguments: Path) -> subprocess.CompletedProcess:
    # Set in the child itself: with JAX loaded, this process must not fork.
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({64 * 1024},) * 2)"
    return subprocess.run(
        [sys.executable, "-c", limit + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_over_the_systems_limit_is_reported_and_leaves_what_was_there(release: Path) -> None:
    before = snapshot(release)
    script = """
import sys
from pathlib import Path
from candidfeed.errors import ReleaseError
from candidfeed.release.storage import write_directory
try:
    write_directory(Path(sys.argv[1]), {"small": b"x", "large": b"x" * 100_000}, {})
except ReleaseError as error:
    sys.exit(f"refused: {error}")
"""
    done = in_a_process_with_small_files(script, release)
    assert "refused:" in done.stderr
    assert "writing 'large' failed: File too large" in done.stderr
    assert snapshot(release) == before


def test_a_disk_that_is_really_full_keeps_the_old_release(
    small_disk: Callable[[int], Path],
) -> None:
    target = small_disk(256) / "release"
    refusals = []
    # The second build fits at first; then one file after the other no longer does.
    for size in range(180_000, 260_000, 4_096):
        write_directory(target, {"a": b"old" * 1_000}, {"n": 1})
        before = snapshot(target)
        try:
            write_directory(target, {"a": b"n" * size, "b": b"n"}, {"n": 2})
        except ReleaseError as error:
            refusals.append(str(error))
            assert snapshot(target) == before
        else:
            assert not refusals
            assert read_directory(target).manifest == {"n": 2}
        shutil.rmtree(target)
    assert 1 <= len(refusals) <= 18
    assert all("the disk is full; free some space and build again" in told for told in refusals)


def test_no_moment_of_a_build_at_which_it_is_killed_harms_the_release(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(CRASH_POINTS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    outcome = json.loads(done.stdout)
    again, first = outcome["again"], outcome["first"]
    assert again["faults"] == first["faults"] == []
    assert again["calls"] == again["old"] + again["new"]
    assert first["calls"] == first["none"] + first["new"]
    assert min(again["old"], again["new"], first["none"], first["new"]) >= 1


def test_builds_killed_at_random_moments_leave_a_whole_release(release: Path) -> None:
    script = """
import itertools, os, sys
from pathlib import Path
from candidfeed.release.storage import write_directory
for n in itertools.count():
    files = {f"file-{i}": str(n).encode() * 10_000 for i in range(4)}
    os.write(1, b".")
    write_directory(Path(sys.argv[1]), files, {"n": n})
"""
    moments = random.Random(11)
    for _ in range(8):
        command = [sys.executable, "-c", script, str(release)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as builder:
            assert builder.stdout is not None
            assert builder.stdout.read(1) == b"."
            # Nothing comes on this end: it is a wait that ends after the given time.
            select.select([], [], [], moments.uniform(0, 0.15))
            builder.kill()
        opened = read_directory(release)
        if "n" in opened.manifest:
            expected = str(opened.manifest["n"]).encode() * 10_000
            assert content(opened) == {f"file-{i}": expected for i in range(4)}
        write_directory(release, FILES, {"dataset": "tiny"})
        assert content(read_directory(release)) == FILES
        assert len(list(release.iterdir())) == 3


# What a build keeps for the next one, should it be killed


def interrupted_training(target: Path, files: dict[str, str]) -> None:
    with training_folder(target) as folder:
        for name, content in files.items():
            (folder / name).write_text(content)
        raise KeyboardInterrupt


def test_what_a_failed_build_trained_stays_and_an_empty_folder_does_not(tmp_path: Path) -> None:
    target = tmp_path / "new" / "release"
    with pytest.raises(KeyboardInterrupt):
        interrupted_training(target, {})
    assert not (tmp_path / "new").exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted_training(target, {"checkpoint": "an epoch"})
    refuse_foreign_folder(target)
    with training_folder(target) as folder:
        assert (folder / "checkpoint").read_text() == "an epoch"
        write_directory(target, FILES, {})
        assert (folder / "checkpoint").exists()
    assert sorted(path.name for path in target.iterdir()) == [
        read_directory(target).release_id, "current",
    ]  # fmt: skip


def test_two_builds_never_train_in_one_folder(tmp_path: Path) -> None:
    with (
        training_folder(tmp_path / "release"),
        pytest.raises(ReleaseError, match="another build is writing there"),
        training_folder(tmp_path / "release"),
    ):
        raise AssertionError("both were let in")
