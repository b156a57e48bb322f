"""Columns of items as integers: each value once, none for what is not known."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.errors import DataError
from candidfeed.feed.item_codes import CurrentCodes, ItemCodes, coded_columns, require_coded

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


puts = st.dictionaries(
    st.integers(0, 7),
    st.none() | st.lists(st.sampled_from("abxyz"), max_size=4, unique=True).map(tuple),
)


@given(
    column=st.lists(st.none() | st.lists(words, max_size=5), min_size=1, max_size=5),
    all_puts=st.lists(puts, max_size=4),
    asked=st.lists(st.integers(0, 7)),
    some=st.lists(st.sampled_from("abxw"), unique=True),
)
def test_what_was_put_of_items_takes_the_place_of_what_was_built(
    column: list[list[str | None] | None],
    all_puts: list[dict[int, tuple[str, ...] | None]],
    asked: list[int],
    some: list[str],
) -> None:
    codes = CurrentCodes(ItemCodes.of(pl.Series(column, dtype=pl.List(pl.String))))
    built = {row: {one for one in tags or () if one} for row, tags in enumerate(column)}
    now = dict(built)
    for put in all_puts:
        codes = codes.then(put)
        for row, values in put.items():
            now[row] = built.get(row, set()) if values is None else {*values}
    rows = np.array(asked, np.int32)
    found = codes.of_rows(rows)
    by_code = {int(code): one for one in "abcdxyz" for code in codes.of_values([one])}
    assert [{by_code[code] for code in each if code >= 0} for each in found.tolist()] == [
        now.get(row, set()) for row in asked
    ]
    # None stands twice, for a cap would count it twice.
    assert all(len(each[each >= 0]) == len({*each[each >= 0]}) for each in found)
    wanted = codes.of_values(some)
    is_any = codes.are_any(rows, wanted)
    assert is_any.tolist() == [bool({*some} & now.get(row, set())) for row in asked]
    assert codes.n_at_most(wanted) >= sum(bool({*some} & tags) for tags in now.values())


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
