"""What work needs of memory is said before it starts."""

from pathlib import Path

import pytest

from candidfeed.data import memory as module
from candidfeed.data.memory import available_bytes, require_memory
from candidfeed.errors import DataError


def test_what_does_not_fit_is_refused_with_both_figures() -> None:
    require_memory(2**30, "a table", available=2**31)
    with pytest.raises(DataError) as caught:
        require_memory(3 * 2**30, "a table", available=2**31)
    assert str(caught.value) == (
        "a table needs 3.0 GiB of memory and 2.0 GiB is available; "
        "use fewer rows (leave out rare ids), a smaller dimension, or a larger machine"
    )


def test_what_fits_to_the_byte_is_refused_for_the_program_needs_some_too() -> None:
    with pytest.raises(DataError):
        require_memory(2**30, "a table", available=2**30)


def test_where_the_system_does_not_say_what_is_free_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda: None)
    require_memory(2**60, "a table")


def test_a_containers_limit_counts_less_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    monkeypatch.setattr(module, "_system_bytes", lambda: 10_000)
    assert available_bytes() == 10_000
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("8000\n")
    (tmp_path / "memory.stat").write_text("anon 7000\ninactive_file 500\n")
    assert available_bytes() == 1_500
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() == 10_000
