"""Optional packages: what is said where one is missing."""

import importlib
import sys
from pathlib import Path

import pytest

from candidfeed.errors import ConfigError
from candidfeed.extras import import_extra


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"pip install 'candidfeed\[references\]'"):
        import_extra("lightgbm", extra="references")


def test_a_package_that_lacks_openmp_is_told_from_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "libgomp.so.1: cannot open shared object file"
    (tmp_path / "lacking.py").write_text(f"raise OSError({said!r})")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"lacking is installed but.*libgomp1"):
        import_extra("lacking", extra="references")


def test_a_package_that_is_there_comes_as_it_is() -> None:
    assert import_extra("json", extra="references") is importlib.import_module("json")
