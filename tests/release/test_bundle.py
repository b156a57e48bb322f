"""What is written is what is read, in a process that holds no training code, and nothing else."""

import json
import pickletools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse as sp

from candidfeed.data.load import load_dataset
from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.errors import ReleaseError
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.pipeline import Ask, recommend
from candidfeed.feed.served import Neighbours, Served
from candidfeed.release.bundle import encode, read_release
from candidfeed.release.export import export_pair
from candidfeed.release.storage import read_directory, write_directory
from candidfeed.release.tensors import encode_tensors
from candidfeed.retrieval.index.vector_index import IndexSettings
from candidfeed.training.two_stage import TwoStage, TwoStageSettings, fit_two_stage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def written(served: Served, folder: Path) -> Path:
    write_directory(folder, encode(served), {})
    return folder


# What is written is what is read


def test_a_release_that_was_written_is_read_back(
    tiny_exported: Served, tiny_served: Served, tiny_release: Path
) -> None:
    # Every field of what was read came from these bytes, and gives them again.
    assert encode(tiny_served) == encode(tiny_exported)
    assert tiny_served.release_id == read_directory(tiny_release).release_id
    assert tiny_served.settings == tiny_exported.settings
    assert tiny_served.users.ids.equals(tiny_exported.users.ids)
    np.testing.assert_array_equal(tiny_served.pasts.items, tiny_exported.pasts.items)


def test_sparse_neighbours_and_a_log_without_features_are_read_back(
    tiny_exported: Served, tmp_path: Path
) -> None:
    weights = sp.random(40, 40, 0.1, "csr", dtype=np.float32, random_state=0)
    served = replace(
        tiny_exported,
        neighbours=Neighbours(sp.csr_matrix(weights)),
        items=ItemTable(tiny_exported.items.frame.select("item_id", "title")),
        user_map=replace(tiny_exported.user_map, columns=()),
    )
    found = read_release(written(served, tmp_path / "r"))
    assert encode(found) == encode(served)
    assert isinstance(found.neighbours.weights, sp.csr_matrix)
    assert (found.neighbours.weights != weights).nnz == 0


def test_a_release_of_a_log_without_ratings_and_times_serves(tmp_path: Path) -> None:
    log = tmp_path / "graph"
    log.mkdir()
    rng = np.random.default_rng(0)
    lines = {user: rng.choice(30, 9, replace=False) + 100 for user in range(40)}
    for part, places in (("train", slice(7)), ("test", slice(7, 9))):
        text = "\n".join(" ".join(map(str, [u, *lines[u][places]])) for u in lines)
        (log / f"{part}.txt").write_text(text)
    dataset = load_dataset(str(log), cache=tmp_path, now=NOW)
    settings = TwoStageSettings(n_candidates=10)
    settings = replace(
        settings,
        stage_one=replace(settings.stage_one, tower=replace(settings.stage_one.tower, n_epochs=1)),
        ranker=replace(settings.ranker, n_epochs=1),
    )
    pair = fit_two_stage(dataset, make_split(dataset), settings=settings, seed=0)
    served = read_release(written(export_pair(dataset, pair), tmp_path / "r"))
    person = served.person("7")
    assert (person.user_id, len(person.past)) == (7, 7)
    slate = recommend(served, person, Ask(k=10, now_s=person.last_time_s))
    assert len(slate.slots) == 10
    assert not {slot.item_id for slot in slate.slots} & set(lines[7][:7].tolist())
    assert {(slot.p_like, slot.rating) for slot in slate.slots} == {(None, None)}
    assert all(np.isfinite(slot.value) for slot in slate.slots)
    assert all("rat" not in slot.reason for slot in slate.slots)


# A large catalogue

LISTS = IndexSettings(exact_below=10, recall_k=20)


@pytest.fixture(scope="module")
def tiny_with_lists(tiny: Dataset, tiny_whole: TwoStage) -> Served:
    """The tiny world, exported as if its catalogue were large."""
    return export_pair(tiny, tiny_whole, index_settings=LISTS)


def test_a_release_of_a_large_catalogue_carries_an_index_that_is_mapped(
    tiny_with_lists: Served, tmp_path: Path
) -> None:
    found = read_release(written(tiny_with_lists, tmp_path / "r"))
    folder = read_directory(tmp_path / "r").path
    assert found.index.report == tiny_with_lists.index.report
    assert isinstance(found.item_vectors.base, np.memmap)
    np.testing.assert_array_equal(found.item_vectors, tiny_with_lists.item_vectors)
    assert {path.name for path in folder.glob("index*")} == {
        "index.faiss",
        "index.json",
        "index.safetensors",
        "index-vectors.npy",
    }
    arrays = safetensors.numpy.load_file(folder / "arrays.safetensors")
    assert "item_vectors" not in arrays
    for row in range(0, 58, 7):
        person = found.person(found.users.id_of(row))
        slates = [
            recommend(served, person, Ask(k=10, now_s=person.last_time_s))
            for served in (found, tiny_with_lists)
        ]
        assert slates[0].slots == slates[1].slots


def test_a_release_says_how_much_of_exact_search_its_index_finds(
    tiny_with_lists: Served, tiny_exported: Served
) -> None:
    for served, kind in ((tiny_with_lists, "inverted"), (tiny_exported, "exact")):
        content = encode(served)["config.json"]
        assert isinstance(content, bytes)
        told = json.loads(content)["index"]
        assert told == asdict(served.index.report)
        assert told["kind"] == kind
    # Of the 58 users with a past one half tunes, the other measures.
    assert tiny_with_lists.index.report.n_held_out == 29
    assert tiny_with_lists.index.report.recall > 0.9
    assert tiny_exported.index.report.recall == 1


def test_a_changed_byte_in_the_index_is_refused_before_it_is_read(
    tiny_with_lists: Served, tmp_path: Path
) -> None:
    written(tiny_with_lists, tmp_path / "r")
    path = read_directory(tmp_path / "r").path / "index.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(ReleaseError, match=r"index\.faiss: sha256 expected"):
        read_release(tmp_path / "r")


@pytest.mark.parametrize("name", ["index.faiss", "index.json", "index-vectors.npy"])
def test_a_release_without_a_part_of_its_index_is_told_as_of_another_version(
    tiny_with_lists: Served, tmp_path: Path, name: str
) -> None:
    files = encode(tiny_with_lists)
    del files[name]
    write_directory(tmp_path / "r", files, {})
    with pytest.raises(ReleaseError, match=r"was built by candidfeed .* build it again"):
        read_release(tmp_path / "r")


# What was not built is refused


def test_a_changed_byte_in_any_file_is_refused(tiny_release: Path, tmp_path: Path) -> None:
    opened = read_directory(tiny_release)
    files = {path.name: path.read_bytes() for path in opened.path.iterdir()}
    assert len(files) == 13
    for name, content in files.items():
        target = tmp_path / name
        generation = target / opened.release_id
        generation.mkdir(parents=True)
        (target / "current").write_bytes((tiny_release / "current").read_bytes())
        for other, intact in files.items():
            (generation / other).write_bytes(intact)
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (generation / name).write_bytes(changed)
        with pytest.raises(ReleaseError, match=f"{name}: sha256 expected"):
            read_release(target)


def _without_vectors(files: dict[str, bytes]) -> None:
    files["arrays.safetensors"] = encode_tensors({"time_edges": np.zeros(2)})


def _with_new_setting(files: dict[str, bytes]) -> None:
    config = json.loads(files["config.json"])
    config["settings"]["temperature"] = 1.0
    files["config.json"] = json.dumps(config).encode()


def _without_items(files: dict[str, bytes]) -> None:
    files["items.parquet"] = b"no table"


def _without_the_ranker(files: dict[str, bytes]) -> None:
    del files["ranker.stablehlo"], files["ranker.safetensors"]


@pytest.mark.parametrize(
    "change",
    [_without_vectors, _with_new_setting, _without_items, _without_the_ranker],
)
def test_files_of_another_version_are_told_as_such(
    tiny_exported: Served, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    files = encode(tiny_exported)
    change(files)
    write_directory(tmp_path / "r", files, {})
    with pytest.raises(ReleaseError, match=r"was built by candidfeed .* build it again"):
        read_release(tmp_path / "r")


def test_no_file_is_a_pickle(tiny_release: Path) -> None:
    for path in read_directory(tiny_release).path.iterdir():
        with pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(path.read_bytes()))


def test_it_is_read_and_asked_without_training_code(tiny_release: Path) -> None:
    script = """
import sys
from pathlib import Path
from candidfeed.feed.pipeline import Ask, recommend
from candidfeed.release.bundle import read_release
served = read_release(Path(sys.argv[1]))
person = served.person(served.users.id_of(0))
assert recommend(served, person, Ask(k=5, now_s=person.last_time_s)).slots
print(*{name.partition('.')[0] for name in sys.modules})
"""
    command = [sys.executable, "-W", "error", "-c", script, str(tiny_release)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded & {"keras", "keras_rs", "tensorflow", "implicit", "sklearn", "torch"} == set()
    assert "jax" in loaded
