"""One line a user: `user item item ...`."""

from pathlib import Path

import pytest

from candidfeed.data.graph_text import read_graph_text
from candidfeed.errors import DataError


def write(folder: Path, **parts: str) -> Path:
    for part, text in parts.items():
        (folder / f"{part}.txt").write_text(text)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_graph_text(folder)
    return str(caught.value).replace(str(folder), "F")


def test_each_number_after_a_user_is_an_event_of_that_part(tmp_path: Path) -> None:
    folder = write(tmp_path, train="0 5 3\n1 3\n\n2\n", valid="1 5\n", test="0 4\r\n3 5 \r\n")
    dataset = read_graph_text(folder)
    assert dataset.events.select("user_id", "item_id", "part").rows() == [
        (0, 5, "train"),
        (0, 3, "train"),
        (1, 3, "train"),
        (1, 5, "valid"),
        (0, 4, "test"),
        (3, 5, "test"),
    ]
    assert dataset.events["value"].null_count() == dataset.events["timestamp"].null_count() == 6
    assert dataset.events["kind"].unique().to_list() == ["interaction"]
    assert dataset.items.rows() == [(3, "3"), (4, "4"), (5, "5")]
    assert dataset.name == tmp_path.name
    assert dataset.rows_read == 6
    assert dataset.has_given_split
    assert not dataset.has_times
    assert dataset.like_at is None


def test_a_user_without_items_is_kept(tmp_path: Path) -> None:
    dataset = read_graph_text(write(tmp_path, train="0 1\n7\n", test="0 2\n"))
    assert dataset.users["user_id"].to_list() == [0, 7]
    assert len(dataset.quarantine) == 0


def test_there_need_not_be_a_validation_part(tmp_path: Path) -> None:
    dataset = read_graph_text(write(tmp_path, train="0 1\n1 2\n", test="0 2\n"))
    assert dataset.events["part"].to_list() == ["train", "train", "test"]


def test_a_repeated_item_and_a_leak_go_to_quarantine_with_their_line(tmp_path: Path) -> None:
    folder = write(tmp_path, train="0 1 2 1\n1 4\n", valid="0 2 9\n", test="\n0 1\n0 9\n1 5\n")
    dataset = read_graph_text(folder)
    assert dataset.quarantine.rows() == [
        ("test.txt", 2, "leak: train.txt has this user and item too", "user 0, item 1"),
        ("test.txt", 3, "leak: valid.txt has this user and item too", "user 0, item 9"),
        ("train.txt", 1, "the user's line names the item twice", "user 0, item 1"),
        ("valid.txt", 1, "leak: train.txt has this user and item too", "user 0, item 2"),
    ]
    assert dataset.rows_read == 9
    assert len(dataset.events) == 5


@pytest.mark.parametrize("token", ["x", "1.5", "-1", "2147483648", "1,2", "99999999999999999999"])
def test_what_is_no_number_is_named_with_its_line(tmp_path: Path, token: str) -> None:
    folder = write(tmp_path, train="0 1\n\n1 2\n", test=f"0 2\n\n1 3 {token} 4\n")
    assert refusal(folder) == (
        f"F/test.txt, line 3: '{token}' is no user or item number; a line is `user item item ...`: "
        "dense integers from 0, spaces between them"
    )


def test_a_part_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, train="0 1\n")
    assert refusal(folder) == (
        "F/test.txt: no such file; the folder needs train.txt and test.txt "
        "(valid.txt if there is one)"
    )
    write(folder, test=" \n\n")
    assert refusal(folder).startswith("F/test.txt: is empty; a line is `user item item ...`")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, train="0 1\n")
    (folder / "test.txt").write_bytes(b"0 1 \xff\n")
    assert refusal(folder) == "F/test.txt: is not text (invalid start byte at byte 4)"
