"""What README says of the package's layout is what lies there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import edgeprune

PACKAGE = Path(edgeprune.__file__).parent
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
AS_A_WHOLE = "tasks/boxes/"
"""A folder that the map does not open."""


def mapped(readme: str) -> Iterator[str]:
    """Yield the modules of the code map, as paths below the package."""
    _, _, rest = readme.partition("\n    edgeprune/\n")
    folder = ""
    for line in rest.partition("\n    tests/")[0].splitlines():
        words = line.split()
        if line[6] != " ":
            folder = words[0] if words[0].endswith("/") else ""
        for word in words:
            if not word.endswith((".py", ".toml", ".html", "/")):
                break  # what a line says of its files
            if word.endswith(".py"):
                yield folder + word


def test_the_code_map_names_every_module() -> None:
    there = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    entrances = {name for name in there if name.endswith(("__init__.py", "__main__.py"))}
    opened = {name for name in there if not name.startswith(AS_A_WHOLE)}
    assert sorted(mapped(README)) == sorted(opened - entrances)


def test_the_map_is_read_folder_by_folder() -> None:
    text = "\n    edgeprune/\n      cli/  the line\n        a.py b.py  of c.py\n      top.py  one\n    tests/  all\n"
    assert list(mapped(text)) == ["cli/a.py", "cli/b.py", "top.py"]
