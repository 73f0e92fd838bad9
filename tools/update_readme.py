"""Writes two parts of the README anew: the annotated tree, from what each file says of itself, and the settings.

`python tools/update_readme.py` after adding, renaming or removing a file or a setting; a test holds the README to it.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = "rt_avsac/config.py"
# what cannot say it itself
SAID = {
    ".ci/run": "what every change must pass",
    ".gitignore": "",
    "LICENSE": "Apache 2.0",
    "README.md": "this",
    "pyproject.toml": "dependencies, extras, settings of the tools",
    "rt_avsac/demo/demo.mp4": "the clip",
    "rt_avsac/demo/truth.npz": "which pixels sound in which frame of it",
    "rt_avsac/page/index.html": "the live page",
    "rt_avsac/page/view.css": "",
    "rt_avsac/py.typed": "",
    "rt_avsac/schema/masks.schema.json": "JSON Schema of the header of a mask message",
    "rt_avsac/weights/avsac-edge.safetensors": "the shipped model",
}


def tracked() -> list[str]:
    """Every file that git tracks; paths relative to the root."""
    command = ["git", "ls-files"]
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


def settings() -> str:
    """A table of LiveSettings: name, default, and the comment beside or above the field."""
    lines = (ROOT / SETTINGS).read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("class LiveSettings"))
    rows, above = ["| setting | default | |", "|---|---|---|"], ""
    for line in lines[start + 1 :]:
        field = re.match(r"    (\w+): (.+?) = (.+?)(?:  # (.*))?$", line)
        if field:
            name, kind, default, beside = field.groups()
            choices = re.findall(r'"(\w+)"', kind) if kind.startswith("Literal") else []
            text = "; ".join(filter(None, [above.strip(), beside])) or ", ".join(choices)
            rows.append(f"| `{name}` | `{default}` | {text} |")
            above = ""
        elif line.startswith("    #"):
            comment = line.strip(" #")
            last = re.match(r"    \w+: ", lines[lines.index(line) - 1]) and rows[-1].endswith("; |")
            if last:  # the comment beside the field goes on
                rows[-1] = rows[-1].removesuffix(" |") + f" {comment} |"
            else:
                above += f" {comment}"
        elif line and not line.startswith(" "):
            break
    return "\n".join(rows)


def replaced(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    readme = ROOT / "README.md"
    text = replaced(readme.read_text("utf-8"), "settings", settings())
    readme.write_text(replaced(text, "tree", f"```\n{tree(tracked())}\n```"), "utf-8")


if __name__ == "__main__":
    main()
