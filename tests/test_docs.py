"""The README against the project: commands, options, settings, exit codes, files, links and the test command."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from rt_avsac import cli, errors
from rt_avsac.config import LiveSettings, read_file
from rt_avsac.options import add_live
from rt_avsac.parser import Parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def files() -> list[str]:
    """What git tracks; in a tree without git all but what tools leave."""
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return listed.stdout.split()
    return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]


def test_the_two_commands_come_first_and_work_as_written() -> None:
    first, second = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)[:2]
    assert README.index(second) < 1500
    venv, install, live = first.split(" && ")
    assert venv == "python3 -m venv .venv"
    extra = re.fullmatch(r"\.venv/bin/pip install -e '\.\[(\w+)\]'", install)
    assert extra
    assert extra.group(1) in read_file(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    program, *words = live.split()
    assert program == ".venv/bin/rt-avsac"
    assert cli.make_parser().parse(words).camera == "demo"
    assert f"\n{second}\n" in (ROOT / ".ci" / "run").read_text(), "CI runs another command than the README says"
    assert (ROOT / second.split()[1]).is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"`rt-avsac {command}" in README


def test_every_option_of_live_is_in_the_readme() -> None:
    parser = Parser()
    add_live(parser)
    for action in parser._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            assert action.option_strings[-1] in README, action.option_strings


def test_every_setting_with_its_default_is_in_the_readme() -> None:
    table = README[README.index("<!-- settings -->") :]
    for field in fields(LiveSettings):
        default = f'"{field.default}"' if isinstance(field.default, str) else field.default
        assert f"| `{field.name}` | `{default}` |" in table, "run python tools/update_readme.py"


def test_every_exit_code_is_in_the_readme() -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)} | {0, 1, cli.INTERNAL_ERROR}
    for code in codes:
        assert f"| {code} | " in README


def test_every_file_is_in_the_tree() -> None:
    tree = README[README.index("<!-- tree -->") :]
    listed: set[str] = set()
    folder = ""
    for line in tree.splitlines():
        name = line.split(" ")[0] if not line.startswith("  ") else line[2:].split(" ")[0]
        if line and not line.startswith(" ") and name.endswith("/"):
            folder = name
        else:
            listed.add((folder if line.startswith("  ") else "") + name)
    missing = [name for name in files() if name not in listed]
    assert not missing, "run python tools/update_readme.py"


def test_links_and_named_paths_are_there() -> None:
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in README.splitlines()}
    for target in re.findall(r"\]\((#?[^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (ROOT / target).exists(), target
    for path in re.findall(r"\b(?:benchmarks|tests|configs|examples|tools|rt_avsac)/[\w./-]*\w", README):
        assert (ROOT / path).exists(), path


def test_the_example_header_has_the_fields_of_the_schema() -> None:
    import json

    example = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    schema = json.loads((ROOT / "rt_avsac" / "schema" / "masks.schema.json").read_text())
    assert set(schema["$defs"]["masks"]["required"]) == set(example)


def test_every_python_file_says_what_it_is_for() -> None:
    specification = importlib.util.spec_from_file_location("update_readme", ROOT / "tools" / "update_readme.py")
    assert specification is not None
    assert specification.loader is not None
    update_readme = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(update_readme)
    for name in files():
        if name.endswith(".py"):
            assert update_readme.about(name), f"{name}: no docstring"
