"""Resolve all that candidfeed needs into constraints.txt: one version that serves every Python.

    python3.11 scripts/make_constraints.py python3.12 python3.13

The Python that runs this, the oldest supported one, picks the versions, because the newest
releases of some packages have left it behind; each Python named as an argument must find the same
versions installable. Where none serves all, write one line a version with a marker
(`; python_version < "3.12"`) into constraints.txt by hand. Installs nothing but a temporary folder.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST = (3, 11)
HEADER = """\
# The versions that candidfeed is built and tested with, on Python 3.11, 3.12 and 3.13.
# Renewed by `make constraints` (scripts/make_constraints.py says how); not edited by hand, but for
# a package of which no one version serves all Pythons: it has a line a version, with a marker.
"""


def resolve(python: str, *options: str) -> list[str]:
    """`name==version` of all that an installation with the development tools would bring."""
    with tempfile.TemporaryDirectory() as folder:
        venv, report = Path(folder, "venv"), Path(folder, "report.json")
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--dry-run"]
        wanted = ["--report", str(report), "--editable", f"{ROOT}[dev]"]
        subprocess.run([*pip, "--ignore-installed", *options, *wanted], check=True)
        packages = [entry["metadata"] for entry in json.loads(report.read_bytes())["install"]]
    pins = {f"{package['name']}=={package['version']}" for package in packages}
    return sorted((pin for pin in pins if not pin.startswith("candidfeed==")), key=str.casefold)


def main(others: list[str]) -> None:
    if sys.version_info[:2] != OLDEST:
        sys.exit(f"run this with Python {OLDEST[0]}.{OLDEST[1]}, the oldest supported one")
    pins = resolve(sys.executable)
    CONSTRAINTS.write_text(HEADER + "\n".join(pins) + "\n")
    sys.stdout.write(f"{CONSTRAINTS.name}: {len(pins)} packages\n")
    for python in others:
        unpinned = set(resolve(python, "--constraint", str(CONSTRAINTS))) - set(pins)
        if unpinned:
            sys.exit(f"{python} also needs {', '.join(sorted(unpinned))}; add them with a marker")
        sys.stdout.write(f"{python}: the same versions install\n")


if __name__ == "__main__":
    main(sys.argv[1:])
