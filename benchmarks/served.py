"""A feed service as a child process, a small release for it, and a PostgreSQL server.

    python benchmarks/served.py FOLDER

makes the small release: FOLDER/releases, of FOLDER/world.
"""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
COMMAND = (sys.executable, "-m", "candidfeed")
_LONGEST_START_S = 120.0
_ADDRESS = re.compile(r"http://[\w.\[\]:]+:\d+")
# Enough to serve; nobody looks at what it recommends.
_SMALL_SETTINGS = """\
n_candidates = 100

[stage_one.tower]
n_epochs = 2

[ranker]
n_epochs = 2
n_draws = 8
"""


def candidfeed(*arguments: object, may_end_in: Sequence[int] = (0,)) -> None:
    """Run a command; what it prints goes to standard error.

    Raises:
        RuntimeError: it ends in another way.
    """
    ended = subprocess.run([*COMMAND, *map(str, arguments)], stdout=sys.stderr, check=False)
    if ended.returncode not in may_end_in:
        raise RuntimeError(f"candidfeed {arguments[0]} ended with {ended.returncode}")


def small_release(folder: Path) -> tuple[Path, Path]:
    """A release of a small world, and the world."""
    world, release, settings = folder / "world", folder / "releases", folder / "settings.toml"
    settings.write_text(_SMALL_SETTINGS)
    candidfeed("synth", "-o", world, "--users", 120, "--items", 200, "--events", 4_000)
    config = world / "candidfeed.toml"
    # Without labels: their heads would take as long to train as all the rest.
    config.write_text(re.sub(r"\[labels\]\n(.+\n)+", "", config.read_text()))
    candidfeed("build", world, "-o", release, "--settings", settings, "--force")
    return release, world


@dataclass(frozen=True)
class Served:
    """A service that is ready.

    Attributes:
        ready_s: from the start of its process until it was.
    """

    process: "subprocess.Popen[str]"
    url: str
    ready_s: float

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return answer.read().decode()

    def memory_mib(self, kind: str = "VmRSS") -> float:
        """Resident memory now, or with `VmHWM` at most (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{kind}:\s+(\d+) kB", status, re.MULTILINE)
        assert found
        return round(int(found[1]) / 1024, 1)

    def all_processes_mib(self) -> float:
        """Resident memory of all processes; what they share counts once."""
        told = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self._pids()]
        shares = [re.search(r"^Pss:\s+(\d+) kB", one, re.MULTILINE) for one in told]
        return round(sum(int(one[1]) for one in shares if one) / 1024, 1)

    def processor_s(self) -> float:
        """Processor time of all processes until now (Linux)."""
        told = [Path(f"/proc/{pid}/stat").read_text() for pid in self._pids()]
        # After the name: the 12th and 13th are ticks in user and in system mode.
        ticks = [one.rpartition(")")[2].split()[11:13] for one in told]
        return sum(int(one) for both in ticks for one in both) / os.sysconf("SC_CLK_TCK")

    def _pids(self) -> set[int]:
        """The process and those that it started."""
        pid = self.process.pid
        # Each thread names those that it started.
        told = [one / "children" for one in Path(f"/proc/{pid}/task").iterdir()]
        return {pid, *(int(child) for one in told for child in one.read_text().split())}

    def wait_for_makers(self, n: int) -> None:
        """Until so many other processes make feeds too."""
        began = time.perf_counter()
        while f"candidfeed_makers {n}.0\n" not in self.text("/metrics"):
            if time.perf_counter() - began > _LONGEST_START_S:
                raise RuntimeError(f"{n} other processes did not get ready")
            time.sleep(0.05)


def start(
    release: Path, *, store: Path | str, more: Sequence[str] = (), source: Path | None = None
) -> Served:
    """A service on any free port; the caller ends its process.

    Args:
        store: a file, or the URL of a database.
        more: options of `candidfeed serve`.
        source: a checkout whose code it runs; None: what is installed.

    Raises:
        RuntimeError: it ends, or is not ready in time; then it is killed.
    """
    began = time.perf_counter()
    options = (
        "--port",
        "0",
        "--no-auth",
        "--store",
        str(store),
        "--requests-per-s",
        "100000",
        *more,
    )
    paths = {} if source is None else {"PYTHONPATH": str(source / "src")}
    process = subprocess.Popen(
        [*COMMAND, "serve", str(release), *options],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **paths},
    )  # fmt: skip
    assert process.stdout is not None
    # The line comes once the service can be asked; a service that ends closes the pipe.
    said = _ADDRESS.search(process.stdout.readline())
    if said:
        served = Served(process, said[0], 0.0)
        while time.perf_counter() - began < _LONGEST_START_S:
            if _is_ready(served):
                return Served(process, said[0], time.perf_counter() - began)
            time.sleep(0.01)
    process.kill()
    process.wait()
    raise RuntimeError("the service did not get ready")


def forget_files(folder: Path) -> None:
    """Have all files below be read from disk next time, but for what a process has mapped."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _is_ready(served: Served) -> bool:
    try:
        served.text("/readyz")
    except OSError:
        return False
    return True


@contextmanager
def serving(
    release: Path, *, store: Path | str, more: Sequence[str] = (), source: Path | None = None
) -> Iterator[Served]:
    """A service while it is needed; then it is asked to end."""
    served = start(release, store=store, more=more, source=source)
    try:
        yield served
    finally:
        served.process.send_signal(signal.SIGTERM)
        try:
            served.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            served.process.kill()
            served.process.wait()


@contextmanager
def postgres_url() -> Iterator[str]:
    """The URL of an empty database, while its server is needed."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        running = importlib.import_module("postgres_server").postgres_server
    finally:
        sys.path.remove(str(SCRIPTS))
    with running() as server:
        yield server.url


if __name__ == "__main__":
    small_release(Path(sys.argv[1]))
