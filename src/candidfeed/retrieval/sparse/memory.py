"""What training needs of memory, said before it starts: a refusal, never a kill."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from candidfeed.errors import DataError

_FLOAT_BYTES = 4
_CGROUP = Path("/sys/fs/cgroup")
# What the program itself, its libraries and the data in flight take.
_RESERVE_BYTES = 256 * 2**20
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


def available_bytes() -> int | None:
    """Memory that can still be taken, by the system and by the container; None if not known."""
    found = [one for one in (_system_bytes(), _container_bytes()) if one is not None]
    return min(found, default=None)


def require_memory(needed_bytes: int, what: str, *, available: int | None = None) -> None:
    """Refuse what would not fit, with what it needs and what there is.

    Args:
        needed_bytes: on top of what the process holds now.
        what: the thing that needs it, as the error begins.
        available: bytes, in place of what the system says.

    Raises:
        DataError: it does not fit.
    """
    there = available_bytes() if available is None else available
    if there is None or needed_bytes + _RESERVE_BYTES <= there:
        return
    raise DataError(
        f"{what} needs {_gib(needed_bytes)} of memory and {_gib(there)} is available; "
        "use fewer rows (leave out rare ids), a smaller dimension, or a larger machine"
    )


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"


def _system_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _free_pages()


def _free_pages() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _container_bytes() -> int | None:
    """What the control group of this process leaves; files in its cache can be dropped."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        rows = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(dict(row.split(" ", 1) for row in rows)["inactive_file"])
    except (OSError, KeyError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used + cached, 0)
