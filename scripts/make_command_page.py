"""Write docs/commands.md from the code: every command, argument, option and default.

python scripts/make_command_page.py
"""

import inspect
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from candidfeed.cli.app import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
HEAD = """\
# Commands

<!-- Made by `make docs` from the code (scripts/make_command_page.py); a test compares the two. -->

`candidfeed --help` and `candidfeed COMMAND --help` say the same in the terminal. `--debug` shows
the traceback of an error and may stand anywhere; `--version` prints the version.

Exit codes: 0 done; 1 a check failed, or candidfeed has a bug; 2 wrong usage or input, or the disk
is full; 130 interrupted.
"""


def page() -> str:
    command = typer.main.get_command(app)
    commands: dict[str, Any] = vars(command)["commands"]
    return "\n".join([HEAD, *(section(name, one) for name, one in commands.items())])


def section(name: str, command: Any) -> str:
    rows = [row(parameter) for parameter in command.params if not parameter.hidden]
    lines = [f"## candidfeed {name}", "", inspect.cleandoc(command.help or ""), ""]
    if rows:
        lines += ["| argument or option | what it is | default |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.name.upper()]
    spelt = ", ".join(f"`{name}`" for name in names)
    told = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| {spelt} | {told} | {default(parameter)} |"


def default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default() if callable(parameter.default) else parameter.default
    if value is None or value is False or value in ((), []):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
