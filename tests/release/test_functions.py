"""The functions of a release are compiled before the rest of it is read."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candidfeed.errors import ReleaseError
from candidfeed.feed.exported import ExportedFunction
from candidfeed.feed.scoring import tower_inputs
from candidfeed.feed.served import Served
from candidfeed.release.bundle import decode, encode
from candidfeed.release.functions import compile_ahead
from candidfeed.release.storage import open_ahead, write_directory


def test_what_was_compiled_ahead_is_what_the_release_computes_with(
    tiny_release: Path, tiny_served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = list[ExportedFunction]()
    compile_once = ExportedFunction._compile

    def noted(function: ExportedFunction, *, quickly: bool) -> Any:
        assert not quickly
        compiled.append(function)
        return compile_once(function, quickly=quickly)

    monkeypatch.setattr(ExportedFunction, "_compile", noted)
    ahead = compile_ahead(open_ahead(tiny_release))
    served = decode(ahead.opening.opened.result(), ahead.functions)
    served.compile(quickly=False)
    # Each once, by whoever came first.
    assert set(compiled) == set(served.functions.values())
    assert len(compiled) == len(served.functions) >= 2
    person = served.person(served.users.id_of(0))
    inputs = tower_inputs(person, served.settings, item_vectors=served.item_vectors)
    np.testing.assert_array_equal(served.tower(inputs), tiny_served.tower(inputs))


def test_it_does_not_wait_for_the_compiler(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest_is_read = threading.Event()
    compile_once = ExportedFunction._compile

    def afterwards(function: ExportedFunction, *, quickly: bool) -> Any:
        assert rest_is_read.wait(60)
        return compile_once(function, quickly=quickly)

    monkeypatch.setattr(ExportedFunction, "_compile", afterwards)
    ahead = compile_ahead(open_ahead(tiny_release))
    served = decode(ahead.opening.opened.result(), ahead.functions)
    rest_is_read.set()
    assert served.tower.reads


def test_a_release_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    write_directory(tmp_path / "r", {"tower.stablehlo": b"as built"}, {})
    (changed,) = tmp_path.glob("r/0001-*/tower.stablehlo")
    changed.write_bytes(b"changed!")
    ahead = compile_ahead(open_ahead(tmp_path / "r"))
    for part in (ahead.opening.opened, ahead.functions):
        with pytest.raises(ReleaseError, match="expected"):
            part.result()


def test_functions_that_cannot_be_read_are_told_as_of_another_version(
    tiny_exported: Served, tmp_path: Path
) -> None:
    files = encode(tiny_exported) | {"tower.safetensors": b"no tensors"}
    write_directory(tmp_path / "r", files, {})
    ahead = compile_ahead(open_ahead(tmp_path / "r"))
    with pytest.raises(ReleaseError, match=r"was built by candidfeed .* build it again") as told:
        decode(ahead.opening.opened.result(), ahead.functions)
    assert told.value.__cause__ is ahead.functions.exception()
