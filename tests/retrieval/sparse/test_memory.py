"""What training of sparse tables needs."""

import pytest

from candidfeed.retrieval.sparse.memory import memory_estimate, table_bytes


def test_the_estimate_counts_tables_their_optimiser_and_the_step() -> None:
    found = memory_estimate([(1000, 64), (500, 64)], batch_size=8, n_negatives=4)
    assert found.tables_bytes == 1500 * 64 * 4
    assert found.optimiser_bytes == 1500 * 4
    assert found.step_bytes == 4 * (2 * 8 + 4) * (12 * 64 + 4)
    assert found.total_bytes == found.tables_bytes + found.optimiser_bytes + found.step_bytes
    assert memory_estimate([], batch_size=0, n_negatives=0).total_bytes == 0


@pytest.mark.parametrize(("rule", "columns"), [("adagrad", 65), ("sgd", 64)])
def test_a_table_takes_its_rows_and_those_of_its_rule(rule: str, columns: int) -> None:
    assert table_bytes(1000, 64, rule=rule) == 1000 * columns * 4
