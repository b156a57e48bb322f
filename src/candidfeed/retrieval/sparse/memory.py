"""What training of sparse tables needs of memory, for `data.memory.require_memory`."""

from collections.abc import Sequence
from dataclasses import dataclass

_FLOAT_BYTES = 4
# Arrays as large as a batch's vectors that are alive at once, found by measuring.
_LIVE_COPIES = 12


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training takes besides the program itself."""

    tables_bytes: int
    optimiser_bytes: int
    step_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.tables_bytes + self.optimiser_bytes + self.step_bytes


def table_bytes(n_rows: int, dim: int, *, rule: str = "adagrad") -> int:
    """Bytes of a sparse table and of its optimiser's rows."""
    return n_rows * (dim + (rule == "adagrad")) * _FLOAT_BYTES


def memory_estimate(
    tables: Sequence[tuple[int, int]],
    *,
    batch_size: int,
    n_negatives: int,
    steps_at_once: int = 1,
) -> MemoryEstimate:
    """What towers with these tables need, given as (rows, dim), trained by row-wise Adagrad."""
    dim = max((dim for _, dim in tables), default=0)
    rows = 2 * batch_size + n_negatives
    return MemoryEstimate(
        tables_bytes=sum(n * dim * _FLOAT_BYTES for n, dim in tables),
        optimiser_bytes=sum(n * _FLOAT_BYTES for n, _ in tables),
        step_bytes=_FLOAT_BYTES * rows * (_LIVE_COPIES * dim + 4 * steps_at_once),
    )
