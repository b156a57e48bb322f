"""The functions of a release, which can be read and compiled before the rest of it.

tower.stablehlo, .safetensors           a function and its weights
ranker.stablehlo, .safetensors          likewise
ranker_actions.stablehlo, .safetensors  likewise, where the release has it
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from candidfeed.feed.exported import ExportedFunction, compile_all
from candidfeed.release.storage import FileContent, Opening
from candidfeed.release.tensors import encode_tensors, map_tensors

NAMES: Final = ("tower", "ranker", "ranker_actions")


def encode_functions(functions: Mapping[str, ExportedFunction]) -> dict[str, FileContent]:
    """The content of each file, by name."""
    files: dict[str, FileContent] = {}
    for name, function in functions.items():
        files[f"{name}.stablehlo"] = function.stablehlo
        files[f"{name}.safetensors"] = encode_tensors(dict(function.weights))
    return files


def read_functions(folder: Path) -> dict[str, ExportedFunction]:
    """Those that a release has, by name; not compiled.

    Raises:
        OSError: a file can't be read.
        ValueError: likewise, as it is no safetensors file.
    """
    found = {name: folder / f"{name}.stablehlo" for name in NAMES}
    return {
        name: ExportedFunction(path.read_bytes(), map_tensors(path.with_suffix(".safetensors")))
        for name, path in found.items()
        if path.exists()
    }


@dataclass(frozen=True)
class Ahead:
    """A release of which what takes longest is under way on threads of its own.

    Attributes:
        functions: ends with what `read_functions` gives, as soon as the release is open; they may
            still be compiled then.
    """

    opening: Opening
    functions: Future[dict[str, ExportedFunction]]


def compile_ahead(opening: Opening) -> Ahead:
    """Begin to read and compile the functions, while this thread imports what reads the rest."""

    def functions() -> dict[str, ExportedFunction]:
        return read_functions(opening.opened.result().path)

    def compiled() -> None:
        # What can't be compiled is told to whoever asks for it next.
        compile_all(read.result().values(), quickly=False)

    pool = ThreadPoolExecutor(1)
    read = pool.submit(functions)
    pool.submit(compiled)
    pool.shutdown(wait=False)
    return Ahead(opening, read)
