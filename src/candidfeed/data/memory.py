"""What work needs of memory, said before it starts: a refusal, never a kill."""

import os
from pathlib import Path

from candidfeed.errors import DataError

_CGROUP = Path("/sys/fs/cgroup")
# What the program itself, its libraries and the data in flight take.
_RESERVE_BYTES = 256 * 2**20
_SMALLER_MODEL = "use fewer rows (leave out rare ids), a smaller dimension, or a larger machine"


def available_bytes() -> int | None:
    """Memory that can still be taken, by the system and by the container; None if not known."""
    found = [one for one in (_system_bytes(), _container_bytes()) if one is not None]
    return min(found, default=None)


def require_memory(
    needed_bytes: int, what: str, *, mend: str = _SMALLER_MODEL, available: int | None = None
) -> None:
    """Refuse what would not fit, with what it needs and what there is.

    Args:
        needed_bytes: on top of what the process holds now.
        what: the thing that needs it, as the error begins.
        mend: what would help, as the error ends.
        available: bytes, in place of what the system says.

    Raises:
        DataError: it does not fit.
    """
    there = available_bytes() if available is None else available
    if there is None or needed_bytes + _RESERVE_BYTES <= there:
        return
    raise DataError(
        f"{what} needs {_gib(needed_bytes)} of memory and {_gib(there)} is available; {mend}"
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
