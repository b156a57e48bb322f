"""Vocabulary: the customer's ids and our rows, both ways."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data import vocabulary as vocabulary_module
from candidfeed.data.vocabulary import UNKNOWN, Vocabulary
from candidfeed.errors import DataError

INTEGERS = Vocabulary(pl.Series([42, 7, -3]))
TEXTS = Vocabulary(pl.Series(["42", "007", "a b,c", "😀", "x" * 1024]))

ids = st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.text(max_size=8))


@given(known=ids, rng=st.randoms())
def test_a_row_leads_to_its_id_and_the_id_back(known: list, rng) -> None:
    distinct = list(dict.fromkeys(known))
    vocabulary = Vocabulary(pl.Series(distinct))
    assert [vocabulary.id_of(row) for row in range(len(vocabulary))] == distinct
    asked = [*known, *distinct]
    rng.shuffle(asked)
    rows = vocabulary.rows(asked)
    assert rows.dtype == np.int32
    assert rows.tolist() == [distinct.index(each) for each in asked]
    assert [vocabulary.row(each) for each in asked] == rows.tolist()


def test_one_id_and_many_are_looked_up_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["42", "007", None, "7", "a b,c", "42", "x" * 1024, "y", "", "😀"]
    few = [vocabulary.rows(asked).tolist() for vocabulary in (INTEGERS, TEXTS)]
    assert few == [[vocabulary.row(one) for one in asked] for vocabulary in (INTEGERS, TEXTS)]
    for limit in ("_ONE_BY_ONE", "_FEW"):
        monkeypatch.setattr(vocabulary_module, limit, 0)
        assert few == [vocabulary.rows(asked).tolist() for vocabulary in (INTEGERS, TEXTS)]
    assert few[1] == [0, 1, UNKNOWN, UNKNOWN, 2, 0, 4, UNKNOWN, UNKNOWN, 3]


@given(
    known=st.lists(st.text(max_size=3), max_size=60),
    asked=st.lists(st.none() | st.text(max_size=3), max_size=400),
)
def test_any_texts_are_looked_up_as_in_a_dict(known: list[str], asked: list[str | None]) -> None:
    distinct = list(dict.fromkeys(known))
    row_of = {one: row for row, one in enumerate(distinct)}
    found = Vocabulary(pl.Series(distinct, dtype=pl.String)).rows([*asked, *known])
    assert found.tolist() == [row_of.get(one, UNKNOWN) for one in [*asked, *known]]


def test_thousands_of_ids_among_many_more_are_found_without_a_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Vocabulary, "_rows_of_many", None)
    numbers = pl.Series(range(200_000))
    asked = np.random.default_rng(0).integers(0, 200_000, 1_500).tolist()
    assert Vocabulary(numbers).rows(asked).tolist() == asked
    texts = [str(one) for one in asked]
    assert Vocabulary(numbers.cast(pl.String)).rows(texts).tolist() == asked


@pytest.mark.parametrize("vocabulary", [INTEGERS, TEXTS])
def test_what_is_not_known_has_no_row_and_nothing_else_moves(vocabulary: Vocabulary) -> None:
    first = vocabulary.id_of(0)
    asked = ["strange", str(first), None, str(first)]
    assert vocabulary.rows(asked).tolist() == [UNKNOWN, 0, UNKNOWN, 0]
    assert vocabulary.rows([None]).tolist() == [UNKNOWN]
    assert Vocabulary(vocabulary.ids[:0]).row(first) == UNKNOWN
    assert vocabulary.rows([]).shape == (0,)


def test_an_integer_id_is_found_as_text_or_number_in_its_plain_form() -> None:
    assert INTEGERS.rows(["42", "-3"]).tolist() == [0, 2]
    assert INTEGERS.rows([42.0, 7.0]).tolist() == [0, 1]
    assert INTEGERS.rows([7, "42"]).tolist() == [1, 0]
    assert INTEGERS.rows(pl.Series([7], dtype=pl.Int16)).tolist() == [1]


@pytest.mark.parametrize(
    "near", ["042", " 42", "42 ", "+42", "42.0", "4 2", "", 42.5, float("nan"), 2**64 + 42, 1e300]
)
def test_a_near_miss_is_not_an_integer_id(near: object) -> None:
    assert INTEGERS.rows([near]).tolist() == [UNKNOWN]


def test_text_ids_are_told_apart_to_the_letter() -> None:
    assert TEXTS.rows(["007", "7", "a b,c", "a b", "😀", "x" * 1024, "x" * 1023]).tolist() == [
        1, UNKNOWN, 2, UNKNOWN, 3, 4, UNKNOWN,
    ]  # fmt: skip
    assert TEXTS.rows([42]).tolist() == [0]
    assert TEXTS.rows([7]).tolist() == [UNKNOWN]


def test_an_empty_vocabulary_knows_nobody() -> None:
    empty = Vocabulary(pl.Series([], dtype=pl.String))
    assert len(empty) == 0
    assert empty.rows(["a"]).tolist() == [UNKNOWN]


@pytest.mark.parametrize("row", [UNKNOWN, 3, -3])
def test_a_row_that_no_id_has_is_refused(row: int) -> None:
    with pytest.raises(IndexError, match=f"no row {row} among 3"):
        INTEGERS.id_of(row)


def test_ids_that_occur_twice_or_are_null_are_refused() -> None:
    with pytest.raises(DataError, match="1 ids occur twice"):
        Vocabulary(pl.Series(["a", "b", "a"]))
    with pytest.raises(DataError, match="an id is null"):
        Vocabulary(pl.Series(["a", None]))
