"""A folder that takes its name once it is whole."""

from pathlib import Path

import pytest

from candidfeed.data.synthetic.folder import beside, refuse_foreign, require_disk, swap
from candidfeed.errors import ConfigError

OURS = {"mark", "rest"}


def test_a_new_an_empty_and_a_marked_folder_are_ours(tmp_path: Path) -> None:
    refuse_foreign(tmp_path / "new", ours=OURS, mark="mark")
    (tmp_path / "empty").mkdir()
    refuse_foreign(tmp_path / "empty", ours=OURS, mark="mark")
    (tmp_path / "empty" / "mark").touch()
    refuse_foreign(tmp_path / "empty", ours=OURS, mark="mark")


@pytest.mark.parametrize("names", [["rest"], ["notes.txt"], ["mark", "notes.txt"]])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    message = rf"holds something else than a world \('{names[-1]}'\); nothing was touched"
    with pytest.raises(ConfigError, match=message):
        refuse_foreign(folder, ours=OURS, mark="mark")


def test_a_file_and_the_current_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        refuse_foreign(tmp_path / "file", ours=OURS, mark="mark")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is the current folder; name a folder in it"):
        refuse_foreign(tmp_path, ours=OURS, mark="mark")


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    require_disk(tmp_path, needed=1)
    with pytest.raises(ConfigError, match="needs about 1,000,000,000,000 MB on disk"):
        require_disk(tmp_path, needed=10**18)


def test_a_folder_is_there_once_it_is_whole_and_its_elder_until_then(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    for content in ("first", "second"):
        with beside(folder) as new:
            (new / "mark").write_text(content)
            assert folder.exists() == (content == "second")
            swap(new, folder)
        assert (folder / "mark").read_text() == content
    assert [one.name for one in tmp_path.iterdir()] == ["w"]


def test_what_fails_leaves_nothing_and_the_elder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "mark").write_text("elder")

    def fail() -> None:
        with beside(folder) as new:
            (new / "mark").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "mark").read_text() == "elder"
    assert [one.name for one in tmp_path.iterdir()] == ["w"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".w.candidfeed-unfinished"
    (left / "events").mkdir(parents=True)
    (left / "events" / "part").touch()
    (left / "mark").touch()
    with beside(tmp_path / "w") as new:
        assert new == left
        assert list(new.iterdir()) == []


def test_two_processes_do_not_write_one_world(tmp_path: Path) -> None:
    with beside(tmp_path / "w") as new:
        (new / "mark").touch()
        message = "another process is writing a world there; wait until it has ended"
        with pytest.raises(ConfigError, match=message), beside(tmp_path / "w"):
            pytest.fail("the second one got in")
        assert (new / "mark").exists()
