"""Environments of their own for the peers that ours can't share, made once and kept.

`peers/NAME.txt` is a plain requirement file. A line `# python 3.12` in it names the Python that the
peer needs; without one it is the Python that runs the benchmark.
"""

import fcntl
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".venv-peers"
_WANTED = re.compile(r"^# python (\d+\.\d+)$", re.MULTILINE)


class PeerError(Exception):
    """A peer can't be installed here; the message says what is missing."""


def python_of(name: str) -> Path:
    """The python of a peer's environment, which is made if its requirements changed.

    Raises:
        PeerError: its Python is not on this machine, or the installation failed.
    """
    pins = (HERE / "peers" / f"{name}.txt").read_text(encoding="utf-8")
    folder = ENVIRONMENTS / name
    done = folder / "installed.txt"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file() or done.read_text(encoding="utf-8") != pins:
            _install(name, folder, pins)
            done.write_text(pins, encoding="utf-8")
    return folder / "bin" / "python"


def _install(name: str, folder: Path, pins: str) -> None:
    wanted = _WANTED.search(pins)
    python = _find_python(wanted[1]) if wanted else sys.executable
    print(f"peer {name}: installing into {folder.name}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    _run(name, [python, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run(name, [*pip, "--disable-pip-version-check", "-r", str(HERE / "peers" / f"{name}.txt")])


def _find_python(version: str) -> str:
    """A Python of this version: the one that runs, on the PATH, or one that pyenv keeps."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    candidates = [shutil.which(f"python{version}"), *_pyenv_pythons(version)]
    for path in filter(None, candidates):
        # A shim of pyenv stands on the PATH even where no such Python is chosen.
        asked = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return path
    raise PeerError(f"this peer needs Python {version}; put python{version} on the PATH")


def _pyenv_pythons(version: str) -> list[str]:
    pyenv = shutil.which("pyenv")
    if not pyenv:
        return []
    listed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True)
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
    fitting = [one for one in listed.stdout.split() if one.startswith(f"{version}.")]
    return [str(Path(root) / "versions" / one / "bin" / "python") for one in reversed(fitting)]


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise PeerError(f"peer {name}: can't be installed: {said[-1]}")
