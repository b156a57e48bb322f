"""Retraining by a schedule: `candidfeed retrain` as a child process, one at a time."""

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from candidfeed.errors import CandidfeedError
from candidfeed.serving.journal import Journal, Surviving
from candidfeed.serving.metrics import Metrics

# How often it is looked whether a release was published by other means.
_LOOK_S: Final = 60.0
# How long a child that was asked to end may take.
_PATIENCE_S: Final = 10.0
_LONGEST_WHY: Final = 1_000


class Retraining:
    """Starts a command whenever the release in force is of a certain age.

    The child ends when its standard input is closed, which the system does when this process ends,
    in whatever way. A child that fails is told and counted, and changes nothing else; the next one
    is due after the same time again.

    Args:
        command: is given `--json FILE` and writes its outcome there, if there is one.
        environment: of the child.
        every_s: since the release was put in force, or since the last attempt.
        in_force_s: when that release was put in force, seconds since 1970.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        every_s: float,
        in_force_s: Callable[[], float],
        metrics: Metrics,
        journal: Journal,
    ) -> None:
        self._command, self._environment = tuple(command), dict(environment)
        self._every_s, self._in_force_s = every_s, in_force_s
        self._metrics, self._journal = metrics, journal
        self._tried_s = 0.0
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retraining", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Start nothing more, and end what runs."""
        with self._lock:
            self._stop.set()
            if self._child is not None:
                self._child.terminate()
        self._thread.join(_PATIENCE_S)
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(min(self._wait_s(), _LOOK_S)):
            if self._wait_s() <= 0:
                self._tried_s = time.time()
                with Surviving(self._journal, "retraining"):
                    self._retrain()

    def _wait_s(self) -> float:
        try:
            since_s = max(self._tried_s, self._in_force_s())
        except CandidfeedError:
            # The folder is gone; it may come back.
            return _LOOK_S
        return max(since_s + self._every_s - time.time(), 0.0)

    def _retrain(self) -> None:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="candidfeed-retrain-") as folder:
            told = Path(folder) / "outcome.json"
            try:
                last_line = self._child_ended([*self._command, "--json", str(told)])
            except OSError as error:
                last_line = f"can't be started: {error}"
            if self._stop.is_set():
                return
            outcome = _read(told) or {"outcome": "failed", "why": last_line}
        name = str(outcome["outcome"])
        self._metrics.retrains.labels(name).inc()
        if name == "published":
            self._metrics.retrained_s.set_to_current_time()
        about = {one: outcome[one] for one in ("release", "why") if one in outcome}
        self._journal.write(
            "retrained", outcome=name, **about, took_s=round(time.monotonic() - began, 1)
        )

    def _child_ended(self, command: Sequence[str]) -> str:
        """Run it to its end; the last line that it printed, which says why where it failed."""
        with self._lock:
            if self._stop.is_set():
                return ""
            self._journal.write("retraining")
            # Its input is never written to: that it closes is what counts.
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True, errors="replace", env=self._environment,
            )  # fmt: skip
        with self._child as child:
            assert child.stderr is not None
            last = ""
            for line in child.stderr:
                last = line.strip() or last
        # An example of a row that can't be used may hold an id.
        why = last.removeprefix("error: ").partition("; first: ")[0]
        return (why or f"ended with {child.returncode}")[:_LONGEST_WHY]


def _read(path: Path) -> dict[str, object] | None:
    return json.loads(path.read_bytes()) if path.is_file() else None
