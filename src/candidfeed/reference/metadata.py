"""What is known of users and items as columns of numbers: the further input of `keras-hybrid`."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.features import PADDING, FeatureMap
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset, Feature
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import ConfigError

MAX_NUMBERS = 2**28
"""A table of metadata holds no more numbers than this (1 GiB): it is dense, as the notebook's."""

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Metadata:
    """Aligned with the vocabularies of a split.

    Attributes:
        user: float32 [n_users, columns]; there may be no column.
        item: float32 [n_items, columns]; the first column is popularity, from 0 to 1.
        user_columns: name of each column of `user`.
        item_columns: name of each column of `item`.
    """

    user: _Floats
    item: _Floats
    user_columns: tuple[str, ...]
    item_columns: tuple[str, ...]


def metadata_of(dataset: Dataset, split: Split) -> Metadata:
    """The features that the data set names, as `FeatureMap` encodes them, and items' popularity.

    The notebook feeds an item's popularity and release year, both by rank among the train rows.
    Popularity here is the same, but counts train rows only: the notebook counts the test rows too.
    Texts are left out, and sensitive features, which no model sees.

    Raises:
        ConfigError: the data set has so many features, users or items that a table is too large.
    """
    user, user_columns = _table(
        dataset.users, "user_id", dataset.user_features, split.users, split.train.user
    )
    item, item_columns = _table(
        dataset.items, "item_id", dataset.item_features, split.items, split.train.item
    )
    popularity = _popularity(split.train.item, len(split.items))
    return Metadata(
        user=user,
        item=np.column_stack([popularity, item]),
        user_columns=user_columns,
        item_columns=("popularity", *item_columns),
    )


def _table(
    table: pl.DataFrame,
    id_column: str,
    features: tuple[Feature, ...],
    vocabulary: Vocabulary,
    train_rows: NDArray[np.int32],
) -> tuple[_Floats, tuple[str, ...]]:
    """Float32 [len(vocabulary), columns] and the columns' names; fitted on who is in train."""
    ids = pl.DataFrame({id_column: vocabulary.ids})
    aligned = ids.join(table, on=id_column, how="left", maintain_order="left")
    fed = tuple(feature for feature in features if feature.kind != "text")
    in_train = np.unique(train_rows)
    feature_map = FeatureMap.fit(aligned[in_train], fed)
    if len(aligned) * feature_map.n_ids > MAX_NUMBERS:
        raise ConfigError(
            f"keras-hybrid: {len(aligned):,} rows of {id_column} with {feature_map.n_ids:,} "
            "columns of metadata are too many for a dense table; name fewer features, "
            "or use keras-deep"
        )
    bag = feature_map.encode(aligned)
    dense = np.zeros((len(aligned), feature_map.n_ids), dtype=np.float32)
    np.add.at(dense, (np.arange(len(aligned))[:, None], bag.ids), bag.weights)
    kept = [i for i in range(feature_map.n_ids) if i != PADDING]
    return dense[:, kept], tuple(feature_map.name_of(i) for i in kept)


def _popularity(train_items: NDArray[np.int32], n_items: int) -> _Floats:
    """Share of train rows whose item has fewer train rows, ties counted half; float32 [n_items]."""
    n_rows = np.bincount(train_items, minlength=n_items)
    of_train = np.sort(n_rows[train_items])
    below = np.searchsorted(of_train, n_rows, side="left")
    not_above = np.searchsorted(of_train, n_rows, side="right")
    return ((below + not_above) / (2 * len(of_train))).astype(np.float32)
