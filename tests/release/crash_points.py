"""Kill a build before each of its calls to the file system, one after the other.

Run as `python crash_points.py FOLDER`: it makes a release, then, for n = 1, 2, ..., lets a child
process build another one and kills it with SIGKILL at its n-th call, until a child gets through.
Prints a JSON object: how many calls there were, how often the old and the new release was found,
and every fault. A process of its own, because it forks.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from candidfeed.errors import ReleaseError
from candidfeed.release.storage import read_directory, write_directory

CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.fsync", "shutil.rmtree"}
NAMES = ("weights", "items", "report")


def build(target: Path, label: str) -> None:
    files = {name: f"{label} {name}".encode() * 50 for name in NAMES}
    write_directory(target, files, {"label": label})


def found(target: Path) -> str:
    """Which release is in force; its content must be of one piece."""
    opened = read_directory(target)
    label = opened.manifest["label"]
    for name in NAMES:
        if (opened.path / name).read_bytes() != f"{label} {name}".encode() * 50:
            raise ReleaseError(f"{name} is not of release {label}")
    return label


def killed_at(n: int, target: Path) -> bool:
    """Whether a build of the new release was killed at its n-th call; False if it had fewer."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [n]

    def count(event: str, _: tuple) -> None:
        if event in CALLS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    build(target, "new")
    os._exit(0)


def leftovers(target: Path) -> list[str]:
    generations = [path.name for path in target.iterdir() if path.name != "current"]
    return [name for name in generations if name.startswith(".")] + sorted(generations)[:-2]


def rounds(folder: Path, *, with_old: bool) -> dict:
    """Kill a build at each of its calls, where there is an old release or where there is none."""
    outcome = {"calls": 0, "old": 0, "new": 0, "none": 0, "faults": []}
    for n in range(1, 1_000):
        target = folder / f"release-{n}"
        if with_old:
            build(target, "older")
            build(target, "old")
        if not killed_at(n, target):
            return outcome | {"calls": n - 1}
        try:
            outcome[found(target)] += 1
        except ReleaseError as error:
            outcome["none"] += 1
            if with_old:
                outcome["faults"].append(f"call {n}: {error}")
        build(target, "next")
        if found(target) != "next" or leftovers(target):
            outcome["faults"].append(f"call {n}: the next build left {leftovers(target)}")
        shutil.rmtree(target)
    raise AssertionError("a build makes a thousand calls")


if __name__ == "__main__":
    here = Path(sys.argv[1])
    outcome = {"again": rounds(here, with_old=True), "first": rounds(here, with_old=False)}
    sys.stdout.write(json.dumps(outcome))
