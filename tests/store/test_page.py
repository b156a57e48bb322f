"""docs/store.md says what the code does."""

import re
from dataclasses import fields
from pathlib import Path

from candidfeed.store import sqlite
from candidfeed.store.store import LARGEST_BATCH, StoreSettings, open_store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_page_is_one_program_that_runs(here: Path) -> None:
    exec(compile("\n".join(BLOCK.findall(PAGE)), "store.md", "exec"), {"__name__": "page"})
    with open_store(str(here / "backup.db")) as backup:
        assert backup.is_erased("ann")
        assert backup.item("film-8") is not None


def test_every_bound_stands_on_the_page_with_its_default() -> None:
    told = dict(re.findall(r"^\| `(n_\w+)` \| (\d+) \|", PAGE, re.MULTILINE))
    assert told == {one.name: str(one.default) for one in fields(StoreSettings)}


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"a batch of more than {LARGEST_BATCH:,}" in PAGE
    assert f"files up to {sqlite._CHECKED_BYTES >> 20} MiB" in PAGE
