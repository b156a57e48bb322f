"""Small logs on disk."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from candidfeed.data.files import read_files
from candidfeed.data.tables import Dataset

NOW = datetime(2025, 1, 1, tzinfo=UTC)
EVENTS = 'path = "{path}"\nuser_id = "u"\nitem_id = "i"\n'

ReadLog = Callable[..., Dataset]


@pytest.fixture
def read_log(tmp_path: Path) -> ReadLog:
    """Write a log, and a TOML file with further keys and tables for it, and read them."""

    def read(
        content: bytes | str | None, keys: str = "", *, path: str = "e.csv", tables: str = ""
    ) -> Dataset:
        if content is not None:
            raw = content if isinstance(content, bytes) else content.encode()
            (tmp_path / path).write_bytes(raw)
        config = tmp_path / "shop.toml"
        config.write_text(f"[events]\n{EVENTS.format(path=path)}{keys}\n{tables}", encoding="utf-8")
        return read_files(config, now=NOW)

    return read
