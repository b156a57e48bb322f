"""Merging by quota: every source gets its share, nothing comes twice, nothing is made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.retrieval.merge import merge_by_quota


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_an_item_counts_for_the_first_source_and_the_next_one_goes_on_behind_it() -> None:
    merged = merge_by_quota([rows(1, 2, 3), rows(2, 1, 4, 5)], [2, 2])
    assert merged.rows.tolist() == [1, 2, 4, 5]
    assert merged.source.tolist() == [0, 0, 1, 1]
    assert (merged.rows.dtype, merged.source.dtype) == (np.int32, np.int8)


def test_places_that_a_source_can_not_fill_go_to_the_others() -> None:
    merged = merge_by_quota([rows(1, 2, 3, 4, 5), rows(1), rows(9)], [2, 3, 1])
    assert merged.rows.tolist() == [1, 2, 3, 4, 5, 9]
    assert merged.source.tolist() == [0, 0, 0, 0, 0, 2]


def test_a_source_without_a_quota_stands_in_only_where_others_run_out() -> None:
    assert merge_by_quota([rows(1, 2), rows(3)], [2, 0]).rows.tolist() == [1, 2]
    assert merge_by_quota([rows(1), rows(3)], [2, 0]).rows.tolist() == [1, 3]
    assert merge_by_quota([rows(), rows()], [2, 1]).rows.tolist() == []


@pytest.mark.parametrize("quotas", [[1], [1, 1, 1], [2, -1]])
def test_quotas_that_do_not_fit_are_refused(quotas: list[int]) -> None:
    with pytest.raises(ValueError, match="2 sources came with the quotas"):
        merge_by_quota([rows(1), rows(2)], quotas)


def plain(proposed: list[np.ndarray], quotas: list[int]) -> set[tuple[int, int]]:
    """The same item by item: (item, source)."""
    taken: dict[int, int] = {}
    for limits in (quotas, [sum(quotas)] * len(quotas)):
        for source, (each, limit) in enumerate(zip(proposed, limits, strict=True)):
            new = [item for item in each.tolist() if item not in taken]
            for item in new[: min(limit, sum(quotas) - len(taken))]:
                taken[item] = source
    return set(taken.items())


some_rows = st.lists(st.integers(0, 12), unique=True, max_size=10)


@given(st.lists(st.tuples(some_rows, st.integers(0, 6)), min_size=1, max_size=4))
def test_as_many_as_there_are_up_to_the_sum_each_once_each_from_its_own_source(
    given_sources: list[tuple[list[int], int]],
) -> None:
    proposed = [rows(*each) for each, _ in given_sources]
    quotas = [quota for _, quota in given_sources]
    merged = merge_by_quota(proposed, quotas)
    found = merged.rows.tolist()
    there = set(np.concatenate(proposed).tolist())
    assert len(set(found)) == len(found) == min(sum(quotas), len(there))
    for item, source, place in zip(found, merged.source, merged.place, strict=True):
        assert item == proposed[source][place]
    assert set(zip(found, merged.source.tolist(), strict=True)) == plain(proposed, quotas)
    first = proposed[0].tolist()
    assert found[: quotas[0]][: len(first)] == first[: quotas[0]]
