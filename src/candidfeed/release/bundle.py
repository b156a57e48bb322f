"""The files of a release: what each holds, written and read by the same module.

    config.json             settings and single numbers
    features.json           the feature maps of users and items
    users.parquet           ids, in the order of their rows
    items.parquet           ids, titles and what else is known, in the order of their rows
    arrays.safetensors      features, histories, statistics and vectors, by name
    neighbours.safetensors  item-to-item weights, dense or as CSR, or who touched what
    tower.stablehlo         stage one's user side, and its weights in tower.safetensors
    ranker.stablehlo        stage two, and in ranker.safetensors its weights and its part of every
                            item
    ranker_actions.stablehlo  of a log that says what was shown: its action heads, where the order
                            does not depend on them; weights likewise (`release/functions.py`)
    index.*                 of a large catalogue: the item vectors and their lists, mapped into
                            memory (`retrieval/index/files.py`); a small one has its vectors above
    report.json             how good it is, beside the baselines; written by the build
    figures.parquet         the same user by user, for `candidfeed compare`; written by the build

Nothing here runs code that a file brings: no pickle, and every file's hash is checked first.
"""

import io
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import scipy.sparse as sp

from candidfeed.data.features import Bag, FeatureMap
from candidfeed.data.tables import Label
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import ReleaseError
from candidfeed.feed.exported import ExportedFunction
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.newcomers import ContentMap
from candidfeed.feed.served import FeedSettings, Neighbours, Pasts, Served
from candidfeed.ranking.action_inputs import ActionSpace, Rates
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.inputs import ItemStatistics, RankerSpace
from candidfeed.ranking.rating_scale import RatingScale
from candidfeed.release.functions import encode_functions, read_functions
from candidfeed.release.storage import (
    FileContent,
    OpenedDirectory,
    read_directory,
    read_generation,
)
from candidfeed.release.tensors import Arrays, encode_tensors, map_tensors
from candidfeed.retrieval.index.files import files_of, open_checked
from candidfeed.retrieval.index.state import EXACT
from candidfeed.retrieval.index.vector_index import VectorIndex
from candidfeed.retrieval.user_knn import UserNeighbours

REPORT = "report.json"
_Struct = TypeVar("_Struct")


def encode(served: Served) -> dict[str, FileContent]:
    """The content of each file, by name; the report is not among them."""
    space = served.space
    config = {
        "settings": asdict(served.settings),
        "like_at": space.scale.like_at,
        "mean_rating": space.scale.mean,
        "n_item_ids": space.n_item_ids,
        "index": asdict(served.index.report),
        "calibration": {name: one.to_json() for name, one in served.calibration.items()},
        "labels": [asdict(one) for one in space.actions.labels] if space.actions else [],
    }
    arrays = {
        **_flat("user_bag", served.user_bag),
        **_flat("item_bag", space.item_bag),
        **_flat("pasts", served.pasts),
        **_flat("statistics", space.items),
        "rating.levels": space.scale.levels,
        "rating.shares": space.scale.shares,
        "time_edges": space.time_edges,
        "trending": served.trending,
        **_flat("content", served.content),
        **{f"derived.{name}": one for name, one in served.derived.items()},
        **(_of_actions(space.actions) if space.actions else {}),
    }
    maps = {"users": served.user_map.to_json(), "items": served.item_map.to_json()}
    files: dict[str, FileContent] = {}
    if served.index.report.kind == EXACT:
        arrays["item_vectors"] = served.item_vectors
    else:
        files |= files_of(served.index.parts)
    files |= {
        "config.json": encode_json(config),
        "features.json": encode_json(maps),
        "users.parquet": _parquet(served.users.ids.rename("user_id").to_frame()),
        "items.parquet": _parquet(served.items.frame),
        "arrays.safetensors": encode_tensors(arrays),
        "neighbours.safetensors": encode_tensors(_weights_of(served.neighbours)),
    }
    return files | encode_functions(served.functions)


def encode_json(content: Mapping[str, Any]) -> bytes:
    """
    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def read_release(target: Path, release_id: str | None = None) -> Served:
    """A release of this folder.

    Args:
        release_id: of one that is kept; None: the one in force.

    Raises:
        ReleaseError: there is none, a file is not what was built, or it was built by a version
            whose files this one can't read.
    """
    return decode(
        read_directory(target) if release_id is None else read_generation(target, release_id)
    )


def decode(
    opened: OpenedDirectory, functions: Future[dict[str, ExportedFunction]] | None = None
) -> Served:
    """The release of files that were compared with what was built.

    Args:
        functions: of that release, where they are read elsewhere.

    Raises:
        ReleaseError: it was built by a version whose files this one can't read.
    """
    try:
        return _decode(opened, functions)
    except (KeyError, TypeError, ValueError, OSError, pl.exceptions.PolarsError) as error:
        if not opened.path.is_dir():
            raise ReleaseError(f"{opened.path}: was removed while it was read") from error
        raise ReleaseError(
            f"{opened.path}: was built by candidfeed {opened.candidfeed_version}, whose files this "
            f"version can't read ({type(error).__name__}: {error}); build it again"
        ) from error


def _decode(opened: OpenedDirectory, ahead: Future[dict[str, ExportedFunction]] | None) -> Served:
    folder = opened.path
    config = json.loads((folder / "config.json").read_bytes())
    maps = json.loads((folder / "features.json").read_bytes())
    arrays = map_tensors(folder / "arrays.safetensors")
    scale = RatingScale(
        levels=arrays["rating.levels"],
        shares=arrays["rating.shares"],
        mean=config["mean_rating"],
        like_at=config["like_at"],
    )
    space = RankerSpace(
        items=_struct("statistics", ItemStatistics, arrays),
        item_bag=_struct("item_bag", Bag, arrays),
        scale=scale,
        time_edges=arrays["time_edges"],
        n_item_ids=config["n_item_ids"],
        actions=_actions_of(config["labels"], arrays),
    )
    functions = read_functions(folder) if ahead is None else ahead.result()
    served = Served(
        release_id=opened.release_id,
        settings=_settings(config["settings"]),
        users=Vocabulary(_table(folder / "users.parquet")["user_id"]),
        user_map=FeatureMap.from_json(maps["users"]),
        item_map=FeatureMap.from_json(maps["items"]),
        user_bag=_struct("user_bag", Bag, arrays),
        pasts=_struct("pasts", Pasts, arrays),
        items=ItemTable.of_file(folder / "items.parquet"),
        index=_index(folder, config["index"], arrays),
        neighbours=_neighbours_of(map_tensors(folder / "neighbours.safetensors")),
        trending=arrays["trending"],
        space=space,
        tower=functions["tower"],
        ranker=functions["ranker"],
        ranker_actions=(
            functions["ranker_actions"] if config["settings"].get("action_width") else None
        ),
        content=_struct("content", ContentMap, arrays),
        calibration={
            name: Calibrator.from_json(one) for name, one in config["calibration"].items()
        },
    )
    derived = (name for name in arrays if name.startswith("derived."))
    served.remember({name.removeprefix("derived."): arrays[name] for name in derived})
    return served


def _settings(fixed: dict[str, Any]) -> FeedSettings:
    # JSON has no tuples; a release of an older version names no kinds.
    kinds = tuple(fixed.get("positive_kinds", ()))
    return FeedSettings(**{**fixed, "positive_kinds": kinds})


def _of_actions(space: ActionSpace) -> Arrays:
    return {
        "actions.by_position": space.by_position,
        "actions.tastes": space.tastes,
        **_flat("actions.items", space.items),
        **_flat("actions.users", space.users),
    }


def _actions_of(labels: list[dict[str, Any]], arrays: Arrays) -> ActionSpace | None:
    if not labels:
        return None
    return ActionSpace(
        labels=tuple(Label(**{**one, "kinds": tuple(one["kinds"])}) for one in labels),
        by_position=arrays["actions.by_position"],
        items=_struct("actions.items", Rates, arrays),
        users=_struct("actions.users", Rates, arrays),
        tastes=arrays["actions.tastes"],
    )


def _index(folder: Path, report: dict[str, Any], arrays: Arrays) -> VectorIndex:
    if report["kind"] == EXACT:
        return VectorIndex.compare_all(arrays["item_vectors"])
    return VectorIndex(open_checked(folder))


def _weights_of(neighbours: Neighbours | UserNeighbours) -> Arrays:
    if isinstance(neighbours, UserNeighbours):
        touched = neighbours.touched
        return {
            "items": touched.indices,
            "ends": touched.indptr,
            "n_items": np.array(touched.get_shape()[1]),
            "k": np.array(neighbours.k),
            "shrink": np.array(neighbours.shrink),
        }
    weights = neighbours.weights
    if isinstance(weights, np.ndarray):
        return {"dense": weights}
    return {"data": weights.data, "indices": weights.indices, "indptr": weights.indptr}


def _neighbours_of(arrays: Arrays) -> Neighbours | UserNeighbours:
    if "shrink" in arrays:
        items, ends = arrays["items"], arrays["ends"]
        shape = (len(ends) - 1, int(arrays["n_items"]))
        touched = sp.csr_matrix((np.ones(len(items), np.float32), items, ends), shape=shape)
        return UserNeighbours(touched, int(arrays["k"]), float(arrays["shrink"]))
    if "dense" in arrays:
        return Neighbours(arrays["dense"])
    n_items = len(arrays["indptr"]) - 1
    parts = (arrays["data"], arrays["indices"], arrays["indptr"])
    return Neighbours(sp.csr_matrix(parts, shape=(n_items, n_items)))


def _flat(prefix: str, struct: Any) -> Arrays:
    """The fields of a struct of arrays, as `prefix.field`."""
    return {f"{prefix}.{field.name}": getattr(struct, field.name) for field in fields(struct)}


def _struct(prefix: str, kind: type[_Struct], arrays: Arrays) -> _Struct:
    return kind(**{field.name: arrays[f"{prefix}.{field.name}"] for field in fields(kind)})  # pyright: ignore[reportArgumentType]


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _table(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path.read_bytes())
