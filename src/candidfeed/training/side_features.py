"""Feature maps and bags of a split's users and items, fitted on its train part only."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from candidfeed.data.features import Bag, FeatureMap
from candidfeed.data.splits import Split
from candidfeed.data.tables import Dataset


@dataclass(frozen=True)
class SideFeatures:
    """What is known of every user and item of a split, as bags in the order of its vocabularies."""

    user_map: FeatureMap
    item_map: FeatureMap
    user_bag: Bag
    item_bag: Bag

    @property
    def any_known(self) -> bool:
        """Whether anything but their ids is known of users or items."""
        return bool(self.user_bag.weights.any() or self.item_bag.weights.any())


def side_features(dataset: Dataset, split: Split) -> SideFeatures:
    """Fit on the users and items that train names; encode all."""
    users = _in_order(dataset.users, split.users.ids, "user_id")
    items = _in_order(dataset.items, split.items.ids, "item_id")
    user_map = FeatureMap.fit(users[np.unique(split.train.user)], dataset.user_features)
    item_map = FeatureMap.fit(items[np.unique(split.train.item)], dataset.item_features)
    return SideFeatures(user_map, item_map, user_map.encode(users), item_map.encode(items))


def _in_order(table: pl.DataFrame, ids: pl.Series, column: str) -> pl.DataFrame:
    wanted = ids.rename(column).to_frame()
    return wanted.join(table, on=column, how="left", maintain_order="left")
