"""Columns of the items that few ask for are read from the release's file, also once it is gone."""

from pathlib import Path

import polars as pl
import pytest

from candidfeed.feed.item_codes import coded_columns
from candidfeed.feed.item_table import ItemTable

FRAME = pl.DataFrame(
    {
        "item_id": [7, 8, 9],
        "title": ["one", "two", None],
        "tags": [["a", "b"], [], None],
        "minutes": [1.5, None, 3.0],
    }
)


@pytest.fixture
def on_disk(tmp_path: Path) -> ItemTable:
    path = tmp_path / "items.parquet"
    FRAME.write_parquet(path)
    table = ItemTable.of_file(path)
    path.unlink()
    return table


def test_what_a_file_holds_is_read_column_by_column(on_disk: ItemTable) -> None:
    for table in (on_disk, ItemTable(FRAME)):
        assert len(table) == 3
        assert dict(table.schema) == dict(FRAME.schema)
        assert table.frame.equals(FRAME)
        for name in FRAME.columns:
            assert table[name].equals(FRAME[name])
        for rows in ([], [1], [2, 0, 2], [0, 1, 2] * 4):
            assert table.take(["minutes", "tags"], rows).equals(FRAME[["minutes", "tags"]][rows])
            assert table.take(["title"], rows).equals(FRAME[["title"]][rows])
        assert coded_columns(table) == ["tags"]
        with pytest.raises(pl.exceptions.PolarsError, match="no such"):
            table["no such"]


def test_what_is_no_table_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(b"no table at all")
    with pytest.raises(pl.exceptions.PolarsError):
        ItemTable.of_file(path)
