"""How a log can be cut: a card for each protocol, printed under the figures and shown in docs."""

from dataclasses import dataclass

KNOWN_ARE_EXCLUDED = "items that the user is known to have touched, but for figures ending in /seen"
TIES = "a target's rank among equal scores is the mean over all their orders"
CHOSEN = "all settings on a part of train, cut as train and test are; never on test"

_EVERYONE = "every user with a test row; every item of the log and the item table"


@dataclass(frozen=True)
class Protocol:
    """What has to be said before two tables may be compared.

    Attributes:
        rows: how rows become train, history and test; for the help texts too.
        asked: which users are asked for, and among which items.
        excluded: what no list may hold.
        ties: how equal scores are ranked.
        chosen: where settings were chosen.
        source: whose table this is, and what differs; empty where it is our own.
    """

    rows: str
    asked: str = _EVERYONE
    excluded: str = KNOWN_ARE_EXCLUDED
    ties: str = TIES
    chosen: str = CHOSEN
    source: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Name and text of each line of the card, without those that say nothing."""
        named = {
            "rows": self.rows,
            "asked": self.asked,
            "excluded": self.excluded,
            "ties": self.ties,
            "settings": self.chosen,
            "source": self.source,
        }
        return [(name, text) for name, text in named.items() if text]


PROTOCOLS = {
    "random": Protocol("80/20 of the rows, drawn with the seed"),
    "keras-notebook": Protocol(
        "the Keras notebook's 80/20: sorted by item, scikit-learn's random_state=0",
        chosen="all settings on a random fifth of train; never on test",
        source="the matrix factorisation notebooks that `candidfeed reference` repeats",
    ),
    "per-user-last": Protocol("each user's last 20 % by time is test"),
    "temporal": Protocol(
        "global 80 % time cut; the first half of a test user's rows is given as history"
    ),
    "leave-last-one": Protocol("each user's last event is test"),
    "item-cold": Protocol(
        "a tenth of the items, drawn with the seed, is new: all of their rows are test"
    ),
    "microsoft": Protocol(
        "75/25 of each item's rows, drawn with the seed (42 gives the published rows)",
        source=(
            "the benchmark table of Microsoft Recommenders (examples/06_benchmarks/"
            "movielens.ipynb): python_stratified_split by item, nDCG@10 with relevance 1, seen "
            "items removed. There settings were fixed beforehand, ties fall as the sort leaves them"
        ),
    ),
    "recbole": Protocol(
        "80/10/10 of each user's rows, drawn with the seed; the second part is given as history",
        source=(
            "RecBole's defaults (recbole/properties/overall.yaml: RS [0.8, 0.1, 0.1], by user, RO, "
            "full; no filtering). Other draws than RecBole's. There the second part stops training "
            "and is excluded from lists; here it is also part of what is known of a user"
        ),
    ),
    "given": Protocol(
        "the data set's own train, valid and test parts",
        chosen="all settings on the valid part, or a random fifth of each user's train rows",
    ),
}
