"""Columns of items as integers: each value once, none for what is not known."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.errors import DataError
from candidfeed.feed.item_codes import ItemCodes, coded_columns, require_coded

words = st.none() | st.sampled_from("abcd")


def told(codes: ItemCodes, rows: list[int]) -> list[list[str]]:
    found = codes.of_rows(np.array(rows, np.int32))
    return [[str(codes.values.id_of(code)) for code in one if code >= 0] for one in found]


@given(column=st.lists(st.none() | st.lists(words, max_size=5), min_size=1), data=st.data())
def test_tags_come_back_once_each_for_any_rows(
    column: list[list[str | None] | None], data: st.DataObject
) -> None:
    codes = ItemCodes.of(pl.Series(column, dtype=pl.List(pl.String)))
    rows = data.draw(st.lists(st.integers(0, len(column) - 1)))
    expected = [list(dict.fromkeys(one for one in column[row] or () if one)) for row in rows]
    assert told(codes, rows) == expected
    counts = [sum(word in (one or ()) for one in column) for word in codes.values.ids]
    assert codes.n_items.tolist() == counts
    some = codes.values.rows(["a", "d"])
    is_any = codes.are_any(np.array(rows, np.int32), some[some >= 0])
    assert is_any.tolist() == [bool({"a", "d"} & {*one}) for one in expected]


@given(column=st.lists(words, min_size=1))
def test_categories_come_back_and_null_is_none(column: list[str | None]) -> None:
    codes = ItemCodes.of(pl.Series(column, dtype=pl.String))
    expected = [[] if one is None else [one] for one in column]
    assert told(codes, list(range(len(column)))) == expected


def test_categories_and_tags_can_be_named_and_nothing_else() -> None:
    items = pl.DataFrame(
        {
            "item_id": ["1"], "title": ["t"], "author": ["x"], "genres": [["a"]],
            "price": [1.0], "born": [None],
        }
    )  # fmt: skip
    assert coded_columns(items) == ["author", "genres"]
    require_coded(items, ["genres", "author"], "here")
    with pytest.raises(DataError, match=r"here: 'genre' is no column .* did you mean 'genres'\?"):
        require_coded(items, ["genre"], "here")
