"""Arrays by name as a safetensors file, read without a copy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

# As safetensors names them.
_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def encode_tensors(arrays: Arrays) -> bytes:
    # It stores the memory as it lies; `ascontiguousarray` would make a vector of a single number.
    return safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in arrays.items()})


def map_tensors(path: Path) -> Arrays:
    """The tensors of a file, mapped into memory: what is never read takes none of it.

    Raises:
        ValueError: the file is no safetensors file.
    """
    content = np.memmap(path, np.uint8, mode="r")
    n_header = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + n_header].tobytes())
    header.pop("__metadata__", None)
    arrays = {}
    for name, about in header.items():
        begin, end = (8 + n_header + offset for offset in about["data_offsets"])
        dtype = _DTYPES[about["dtype"]]
        arrays[name] = np.asarray(content[begin:end].view(dtype)).reshape(about["shape"])
    return arrays
