"""From what a person typed to a data set."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from candidfeed.data.load import claim_licence_notice, load_dataset
from candidfeed.errors import DataError

NOW = datetime(2025, 1, 1, tzinfo=UTC)
CONFIG = '[events]\npath = "e.csv"\nuser_id = "u"\nitem_id = "i"\n'
KNOWN = (
    "a DATASET is `ml-100k`, a .toml file that describes a log (docs/data.md), a folder with a "
    "candidfeed.toml, or a folder with train.txt and test.txt"
)


def refusal(source: str, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(source, cache=folder / "cache", now=NOW)
    return str(caught.value).replace(str(folder), "F")


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i\n1,a\n")
    (tmp_path / "shop.toml").write_text(CONFIG)
    dataset = load_dataset(str(tmp_path / "shop.toml"), cache=tmp_path, now=NOW)
    assert dataset.name == "shop"
    assert dataset.events["user_id"].to_list() == [1]


def test_a_folder_with_a_candidfeed_toml_is_read_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "my shop"
    folder.mkdir()
    (folder / "e.csv").write_text("u,i\n1,a\n")
    (folder / "candidfeed.toml").write_text(CONFIG)
    (folder / "train.txt").write_text("0 1\n")
    assert load_dataset(str(folder), cache=tmp_path, now=NOW).name == "my shop"


def test_a_folder_of_graph_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 1 2\n")
    (tmp_path / "test.txt").write_text("0 3\n")
    assert load_dataset(str(tmp_path), cache=tmp_path, now=NOW).has_given_split


def test_what_is_no_data_set_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    assert refusal("ml100k", tmp_path) == (
        f"'ml100k': no such data set; did you mean 'ml-100k'? {KNOWN}"
    )
    assert refusal("", tmp_path) == f"'': no such data set; {KNOWN}"
    (tmp_path / "shop.toml").write_text(CONFIG)
    assert refusal(str(tmp_path / "shp.toml"), tmp_path) == (
        f"'F/shp.toml': no such data set; did you mean 'F/shop.toml'? {KNOWN}"
    )
    assert refusal(str(tmp_path), tmp_path) == (
        "F: the folder has neither candidfeed.toml nor train.txt; did you mean 'F/shop.toml'? "
        + KNOWN
    )


def test_a_log_without_a_description_is_refused_with_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "e.csv.gz").write_bytes(b"")
    assert refusal(str(tmp_path / "e.csv.gz"), tmp_path) == (
        "F/e.csv.gz: is a log without a description; say in a .toml file what its columns mean "
        "(docs/data.md) and give that file's name"
    )


def test_terms_are_told_once_for_each_cache(tmp_path: Path) -> None:
    assert claim_licence_notice("x", "be kind", cache=tmp_path / "c") == "be kind"
    assert claim_licence_notice("x", "be kind", cache=tmp_path / "c") == ""
    assert claim_licence_notice("y", "be fair", cache=tmp_path / "c") == "be fair"
    assert claim_licence_notice("z", "", cache=tmp_path / "c") == ""
    assert sorted(one.name for one in (tmp_path / "c").iterdir()) == [
        "x.licence-shown",
        "y.licence-shown",
    ]
