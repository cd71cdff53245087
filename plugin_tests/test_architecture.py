"""The order of the rooms: imports go from higher rooms to lower ones, and no module imports itself back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "tiacrossfusion"
ROOMS = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")

#: From low to high, as docs/architecture.md lists them.
ORDER = tuple(line.split("`")[1] for line in ROOMS.splitlines() if line.startswith("| `"))


def modules() -> dict[str, Path]:
    """All modules by their dotted name within the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """What a module imports from the package, anywhere in its text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tiacrossfusion."):
            module = node.module.removeprefix("tiacrossfusion.")
            for name in node.names:
                yield f"{module}.{name.name}"
                yield module
        elif isinstance(node, ast.ImportFrom) and node.module == "tiacrossfusion":
            yield from (name.name for name in node.names)


def test_imports_go_downward():
    upward = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imports(path)
        if (room := name.partition(".")[0]) in ORDER
        and (other := target.partition(".")[0]) in ORDER
        and ORDER.index(other) > ORDER.index(room)
    ]
    assert upward == []


def test_every_module_lies_in_a_room_that_is_listed():
    loose = {name.partition(".")[0] for name in modules()} - set(ORDER)
    assert loose == {"", "__main__"}


def test_no_circles():
    known = modules()
    graph = {
        name: {target for target in imports(path) if target in known and target not in ("", name)}
        for name, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' -> '.join(error.args[1])}")


def test_files_are_small():
    long = {
        name: lines
        for name, path in modules().items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
