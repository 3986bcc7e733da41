"""How the pages are built: MyST, furo, a section for every module, and docstrings read as plain text."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

project = "scorefield"
author = "The scorefield authors"
project_copyright = "The scorefield authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "scorefield"
default_role = "py:obj"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
autodoc_default_options = {"special-members": "__call__"}
napoleon_use_ivar = True
napoleon_use_rtype = False

SOURCE = Path(__file__).resolve().parent.parent / "src" / "scorefield"
logger = logging.getLogger(__name__)


def modules_of(room: str) -> list[str]:
    """The full names of a room's modules, the room itself first; none when it is not there."""
    if (SOURCE / f"{room}.py").exists():
        return [f"scorefield.{room}"]
    files = sorted((SOURCE / room).rglob("*.py"), key=lambda file: (file.name != "__init__.py", file))
    names = (".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in files)
    return [name.removesuffix(".__init__") for name in names]


def fill_rooms(app: Sphinx, page: str, content: list[str]) -> None:
    """Put a section for each module where api.md says `{{ rooms: a b c }}`, and miss no module."""
    if page != "api":
        return
    listed: set[str] = set()

    def sections(match: re.Match[str]) -> str:
        rooms = match[1].split()
        listed.update(rooms)
        return "\n".join(_section(name) for room in rooms for name in modules_of(room))

    content[0] = re.sub(r"\{\{ rooms: ([\w ]+) \}\}", sections, content[0])
    there = {file.stem for file in SOURCE.glob("[a-z]*.py")} | {
        file.parent.name for file in SOURCE.glob("*/__init__.py")
    }
    rest = [_section(name) for room in sorted(there - listed) for name in modules_of(room)]
    content[0] = content[0].replace("{{ the rest }}", "\n".join(["## Others", *rest]) if rest else "")


def _section(name: str) -> str:
    """One module's section; of a package's face only the text, for its names come again with its modules."""
    is_face = (SOURCE.parent.joinpath(*name.split(".")) / "__init__.py").exists()
    option = "   :no-members:" if is_face else "   :members:"
    return f"### {name.removeprefix('scorefield.')}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{option}\n```\n"


def as_plain_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: keep indented formulas as they stand and take no star or bar for markup."""
    out: list[str] = []
    literal = in_section = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and not indent:
            literal = False
            in_section = bool(re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line.strip()))
        if line.strip() and indent and not literal and not in_section:
            last = next((text for text in reversed(out) if text.strip()), "")
            if not out or not out[-1].strip() or not last.startswith(" "):
                out += ["", "::", ""]
                literal = True
        out.append(line if literal else _escaped(line))
    lines[:] = out


def without_empty_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A protocol is not called to be made: leave out the signature that Python gives it."""
    return (None if signature == "(*args, **kwargs)" else signature), returned


def _escaped(line: str) -> str:
    """The line with markup characters escaped, except inside backticks."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts)


def check_names(app: Sphinx, page: str, content: list[str]) -> None:
    """Every `module.name` and every `tests/file.py::test` of a page on formulas must exist; the names become links."""
    if page not in ("formulas", "derivations"):
        return

    def link(match: re.Match[str]) -> str:
        name = f"scorefield.{match[1]}"
        if not _exists(name):
            logger.warning("%s.md names %s, which is not there", page, name)
        return f"{{py:obj}}`{match[1]} <{name}>`"

    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", content[0]):
        path = SOURCE.parent.parent / file
        if not path.exists() or (test and f"def {test}(" not in path.read_text(encoding="utf-8")):
            logger.warning("%s.md names %s::%s, which is not there", page, file, test)
    content[0] = re.sub(r"(?<!`)`([a-z_]+(?:\.\w+)+)`(?!`)", link, content[0])


def _exists(name: str) -> bool:
    """Whether a full name can be imported, attribute by attribute."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("source-read", fill_rooms)
    app.connect("source-read", check_names)
    app.connect("autodoc-process-signature", without_empty_signature)
    app.connect("autodoc-process-docstring", as_plain_text, priority=400)
