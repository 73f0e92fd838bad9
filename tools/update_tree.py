"""Writes the annotated tree of the README anew: every file of the repository with the first line it says of itself.

`python tools/update_tree.py` after adding, renaming or removing a file; a test holds the README to it.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- tree -->", "<!-- end of tree -->"
# what cannot say it itself
SAID = {
    ".ci/run": "what every change must pass",
    ".gitignore": "",
    "LICENSE": "Apache 2.0",
    "README.md": "this",
    "pyproject.toml": "dependencies, extras, settings of the tools",
    "rt_avsac/demo/demo.mp4": "the clip",
    "rt_avsac/demo/truth.npz": "which pixels sound in which frame of it",
    "rt_avsac/py.typed": "",
    "rt_avsac/weights/avsac-edge.safetensors": "the shipped model",
}


def tracked() -> list[str]:
    """Every file of the repository, by git; paths relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in out.splitlines() if (ROOT / name).is_file())


def about(name: str) -> str:
    """The first line of its docstring, or of its leading comment or heading; "" if it says nothing."""
    if name in SAID:
        return SAID[name]
    path = ROOT / name
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""
    if path.suffix == ".py":
        line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        own = path.stem.lower().replace("_", "")
        head, sign, rest = line.partition(": ")
        return rest if sign and head.lower().replace("_", "").replace(" ", "") == own else line
    for line in text.splitlines():
        found = re.match(r"\s*(?:#|//|<!--|/\*)+(?!!)\s*(.*?)\s*(?:-->|\*/)?$", line)
        if found and found.group(1):
            return found.group(1)
    return ""


def tree(names: list[str]) -> str:
    lines, folder = [], ""
    for name in sorted(names, key=lambda name: (name.count("/") == 0, name.rpartition("/")[0], name)):
        parent, _, base = name.rpartition("/")
        if parent != folder:
            lines.append(f"{parent}/")
            folder = parent
        indent = "  " if parent else ""
        lines.append(f"{indent}{base:<28}{about(name)}".rstrip())
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n```\n{tree(tracked())}\n```\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
