"""An index on disk: four plain files, mapped into memory where they are large.

    index.json          the report, and what else is a single number
    index.safetensors   how deep to look, and what has changed since the build
    index-vectors.npy   float32 [n_items, dim]; mapped
    index.faiss         the lists of codes, where there are any

FAISS trusts what it reads. So no file is opened here before its sha256 was compared: `load_parts`
does that by the list that `save_parts` put beside the files, a release by its manifest.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import safetensors.numpy

from candidfeed.errors import ReleaseError
from candidfeed.retrieval.index.exact import ExactIndex
from candidfeed.retrieval.index.inner_products import Floats, all_bits, untyped_faiss, without
from candidfeed.retrieval.index.inverted import InvertedIndex, Probing
from candidfeed.retrieval.index.state import (
    EXACT,
    INVERTED,
    IndexParts,
    IndexReport,
    Snapshot,
)

NUMBERS, ARRAYS, VECTORS, LISTS = (
    "index.json",
    "index.safetensors",
    "index-vectors.npy",
    "index.faiss",
)
SUMS = "index.sha256"
_FORMAT = 2
_PROBING = ("spreads", "depths", "most", "shares", "scanned")

Writer = Callable[[Path], None]


def files_of(index: IndexParts) -> dict[str, bytes | Writer]:
    """Content of each file by name, or what writes it at the path that it is given."""
    base, snapshot = index.base, index.snapshot
    numbers: dict[str, Any] = {"format": _FORMAT, "report": asdict(index.report)}
    arrays: dict[str, Any] = {
        "gone": snapshot.gone,
        "added_rows": snapshot.added_rows,
        "added": snapshot.added,
    }
    files: dict[str, bytes | Writer] = {VECTORS: _vector_writer(base.vectors)}
    if isinstance(base, InvertedIndex):
        probing = base.probing
        numbers["reference"] = probing.reference
        arrays |= {name: getattr(probing, name) for name in _PROBING}
        arrays["list_of"] = base.list_of
        files[LISTS] = _list_writer(base.lists)
    files[ARRAYS] = safetensors.numpy.save(arrays)
    files[NUMBERS] = json.dumps(numbers, allow_nan=False, indent=1).encode() + b"\n"
    return files


def open_checked(folder: Path) -> IndexParts:
    """The index of a folder whose files were all compared with what was written.

    Several processes share one copy of what is mapped.

    Raises:
        ValueError, KeyError, TypeError: the files are of another version.
        OSError: a file is not there.
    """
    numbers = json.loads((folder / NUMBERS).read_bytes())
    if numbers["format"] != _FORMAT:
        raise ValueError(f"index of format {numbers['format']!r}, not {_FORMAT}")
    report = IndexReport(**numbers["report"])
    arrays = safetensors.numpy.load_file(folder / ARRAYS)
    mapped = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    # What is taken of an array of a class of its own is made one of that class, each time.
    vectors: Floats = mapped.view(np.ndarray)
    if vectors.dtype != np.float32 or vectors.shape != (report.n_items, report.dim):
        raise ValueError(f"vectors are {vectors.dtype} {vectors.shape}")
    base = _base(folder, numbers, arrays, vectors)
    snapshot = Snapshot(
        open=without(all_bits(len(vectors)), arrays["gone"]),
        gone=arrays["gone"],
        added_rows=arrays["added_rows"],
        added=arrays["added"],
    )
    return IndexParts(base, report, snapshot)


def _base(
    folder: Path, numbers: dict[str, Any], arrays: dict[str, Any], vectors: Floats
) -> ExactIndex | InvertedIndex:
    report = IndexReport(**numbers["report"])
    if report.kind == EXACT:
        return ExactIndex(vectors)
    if report.kind != INVERTED:
        raise ValueError(f"an index of kind {report.kind!r}")
    try:
        lists = untyped_faiss.read_index(str(folder / LISTS))
    except RuntimeError as error:
        raise ValueError(f"lists that FAISS can't read: {str(error).splitlines()[0]}") from error
    if (lists.ntotal, lists.d, lists.nlist) != (len(vectors), report.dim, report.n_lists):
        raise ValueError(f"lists of {lists.ntotal} items, {lists.d} long, in {lists.nlist} lists")
    probing = Probing(numbers["reference"], **{name: arrays[name] for name in _PROBING})
    return InvertedIndex(vectors, lists, arrays["list_of"], probing)


def save_parts(index: IndexParts, folder: Path) -> None:
    """Write the index as a new folder: whole, or not at all.

    Raises:
        ReleaseError: there is something at `folder` already, or it can't be written.
    """
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        if folder.exists():
            raise ReleaseError(f"{folder}: is there already; name a new folder for the index")
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        for name, content in files_of(index).items():
            if callable(content):
                content(beside / name)
            else:
                (beside / name).write_bytes(content)
        lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(beside.iterdir())]
        (beside / SUMS).write_text("".join(lines), encoding="ascii")
        beside.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ReleaseError(f"{folder}: writing the index failed: {reason}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_parts(folder: Path) -> IndexParts:
    """The index that `save_parts` wrote, once each file was compared with what was written.

    Raises:
        ReleaseError: a file is missing or changed, or of a version that this one can't read.
    """
    folder = Path(folder)
    try:
        _compare_files(folder)
        return open_checked(folder)
    except OSError as error:
        place = error.filename or folder
        raise ReleaseError(f"{place}: can't be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"{folder}: is no index that this version can read ({error}); save it again"
        ) from error


def _compare_files(folder: Path) -> None:
    sums: dict[str, str] = {}
    for line in (folder / SUMS).read_text(encoding="ascii").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    there = {path.name for path in folder.iterdir()} - {SUMS}
    if there - sums.keys() or not sums.keys() <= {NUMBERS, ARRAYS, VECTORS, LISTS}:
        raise ReleaseError(f"{folder / SUMS}: names {sorted(sums)}; save the index again")
    for name, digest in sums.items():
        if _sha256(folder / name) != digest:
            raise ReleaseError(f"{folder / name}: was changed; save the index again")


# FAISS and NumPy write by C streams, and would not tell that the last bytes found no room on the
# disk: here they write by Python's files, which do.


def _vector_writer(vectors: Floats) -> Writer:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            header = np.lib.format.header_data_from_array_1_0(vectors)
            np.lib.format.write_array_header_1_0(file, header)
            file.write(vectors.data)

    return write


def _list_writer(lists: faiss.IndexIVFPQFastScan) -> Writer:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            faiss.write_index(lists, untyped_faiss.PyCallbackIOWriter(file.write))

    return write


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
