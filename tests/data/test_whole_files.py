"""A file is the old one or the new one."""

from pathlib import Path
from typing import BinaryIO

import pytest

from candidfeed.data.whole_files import replace_file


def test_bytes_and_what_a_function_writes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "figures"
    replace_file(path, b"old")
    assert path.read_bytes() == b"old"
    replace_file(path, lambda file: file.writelines([b"ne", b"w"]))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_function_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figures"
    replace_file(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
