"""What the documents say is what the code does; what they name is there."""

import importlib
import pkgutil
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import candidfeed
from candidfeed import config
from candidfeed.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "candidfeed"
# Made by tools or by a person's runs; never part of the project.
NOT_OURS = {"__pycache__", "build", "dist", "node_modules", "releases", "runs"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
OPTION_DEFAULT = re.compile(
    r"`(?P<option>--[a-z-]+)[^`\n]*`[^`\n]*?\bdefault `(?P<default>[^`\n]+)`"
)
FILE_NAME = re.compile(r"\.?[\w-][\w./-]*\.(?:py|md|toml|ipynb)")


def our_files() -> list[Path]:
    """Every file of the project, as git would track it, whether or not git is here."""
    found: list[Path] = []
    folders = [ROOT]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
            if hidden or path.name in NOT_OURS or path.name.endswith((".egg-info", ".pyc")):
                continue
            if path.is_dir():
                folders.append(path)
            elif not path.name.endswith(".quarantine.csv"):
                found.append(path)
    return found


OUR_FILES = our_files()
PAGES = [path for path in OUR_FILES if path.suffix == ".md"]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands() -> dict[str, Any]:
    return vars(typer.main.get_command(app))["commands"]


def options(command: str) -> dict[str, Any]:
    """Each spelling of each option of a command."""
    parameters = commands()[command].params
    return {opt: one for one in parameters for opt in (*one.opts, *one.secondary_opts)}


def command_lines(page: Path) -> list[list[str]]:
    """The `candidfeed ...` lines in the code blocks of a page, as words."""
    blocks = "\n".join(body for _, body in FENCE.findall(page.read_text(encoding="utf-8")))
    lines = (line.strip().removeprefix("$ ") for line in blocks.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith("candidfeed ")]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#{1,6} +(.+?) *$", prose, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


# Commands and options


def test_the_page_of_commands_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = importlib.import_module("make_command_page").page()
    assert text("docs/commands.md") == page, "docs/commands.md is behind the code: `make docs`"


def test_the_readme_names_every_command() -> None:
    readme = text("README.md")
    assert [name for name in commands() if f"candidfeed {name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_command_line_in_a_page_is_one_that_the_program_takes(page: Path) -> None:
    for program, command, *words in command_lines(page):
        if command.startswith("-"):
            assert command in {"--version", "--help", "--debug"}
            continue
        assert command in commands(), f"{program} {command}: no such command"
        known = options(command).keys() | {"--help", "-h", "--debug"}
        typed = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        unknown = [word for word in typed if word not in known]
        assert unknown == [], f"{program} {command}: no such options"


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_default_that_a_page_gives_for_an_option_is_the_codes(page: Path) -> None:
    defaults: dict[str, set[str]] = {}
    for command in commands():
        for option, parameter in options(command).items():
            defaults.setdefault(option, set()).add(str(parameter.default))
    for stated in OPTION_DEFAULT.finditer(page.read_text(encoding="utf-8")):
        assert stated["default"] in defaults.get(stated["option"], set()), stated[0]


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench"])
def test_the_targets_of_make_that_pages_name_are_there(target: str) -> None:
    makefile = text("Makefile")
    assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE)
    assert f"make {target}" in text("README.md") + text("CONTRIBUTING.md")


def test_a_page_names_no_target_of_make_that_is_not_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`make ([a-z]+)", pages))
    assert named <= targets


# The file that maps a person's own columns


def test_every_key_of_the_toml_file_is_documented() -> None:
    models = [one for one in vars(config).values() if isinstance(one, type)]
    fields = {
        name: field
        for model in models
        if issubclass(model, BaseModel) and model is not BaseModel
        for name, field in model.model_fields.items()
    }
    assert "user_id" in fields
    documented = set(CODE.findall(text("docs/data.md")))
    assert [name for name in fields if name not in documented] == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_toml_file_in_a_page_is_one_that_the_program_takes(
    page: Path, tmp_path: Path
) -> None:
    for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "toml" and "[events]" in body:
            path = tmp_path / "example.toml"
            path.write_text(body, encoding="utf-8")
            config.load_config(path)


# Files


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = set(FILE_NAME.findall(text("ARCHITECTURE.md")))
    assert len(named) >= 20
    missing = [name for name in named if not any((at / name).exists() for at in (ROOT, SOURCE))]
    assert sorted(missing) == []


def test_every_module_is_named_in_the_architecture() -> None:
    architecture = text("ARCHITECTURE.md")
    modules = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    named = [path for path in modules if str(path.relative_to(SOURCE)) in architecture]
    assert sorted(set(modules) - set(named)) == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in ("".join(groups) for groups in LINK.findall(prose)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{short(page)}: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in headings(linked), f"{short(page)}: {target}"


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "docs/decisions.md",
        "docs/log.md",
        "benchmarks/RESULTS.md",
    ],
)
def test_a_page_that_a_newcomer_looks_for_is_there(name: str) -> None:
    assert text(name).strip()


def test_no_file_names_a_machine_or_a_registrys_host() -> None:
    # In pieces, so that this file does not hold them.
    hosts = ("files." + "pythonhosted", "pypi." + "org", "registry." + "npmjs", "deb." + "debian")
    paths = [f"/{top}/" for top in ("wo" + "rk", "ro" + "ot", "ho" + "me")]
    folders = ["/op" + "t/pypi", "/op" + "t/wheels", "/tm" + "p/w/", "/.lib" + "rary/"]
    telling = re.compile(
        "|".join(rf"(?<![\w.~-]){re.escape(one)}" for one in [*paths, *folders, *hosts])
    )
    found = {}
    for path in OUR_FILES:
        try:
            said = telling.search(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if said:
            found[short(path)] = said[0]
    assert found == {}


# The code itself


def test_every_module_can_be_imported_and_says_what_it_is_for() -> None:
    names = [one.name for one in pkgutil.walk_packages(candidfeed.__path__, "candidfeed.")]
    assert "candidfeed.cli.app" in names
    assert [name for name in names if not importlib.import_module(name).__doc__] == []
    assert sys.modules["candidfeed"].__doc__
