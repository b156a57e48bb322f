"""LightFM (WARP) on given rows: EVENTS.npz OUT.npz DIM EPOCHS RATE SEED; prints JSON.

EVENTS holds `user` and `item` (int32 rows) and `n_users`, `n_items`; OUT gets the vectors of both,
a user's with a one and an item's with its bias at the end.
"""

import json
import sys
import time

import numpy as np
import scipy.sparse as sp
from lightfm import LightFM


def main() -> None:
    source, target, dim, epochs, rate, seed = sys.argv[1:]
    events = np.load(source)
    shape = (int(events["n_users"]), int(events["n_items"]))
    ones = np.ones(len(events["user"]), np.float32)
    rows = sp.coo_matrix((ones, (events["user"], events["item"])), shape=shape)
    start = time.perf_counter()
    model = LightFM(
        no_components=int(dim), loss="warp", learning_rate=float(rate), random_state=int(seed)
    )
    model.fit(rows, epochs=int(epochs), num_threads=2)
    took = time.perf_counter() - start
    (_, user), (bias, item) = model.get_user_representations(), model.get_item_representations()
    one = np.ones((shape[0], 1), np.float32)
    np.savez(target, user=np.hstack([user, one]), item=np.hstack([item, bias[:, None]]))
    print(json.dumps({"fit_s": round(took, 3)}))


if __name__ == "__main__":
    main()
