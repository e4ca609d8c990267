"""Data flows one way through the package, and light commands load no heavy library."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fabricsim"

# What each part may import besides itself. "fabricsim" is the package's own __init__.py, the public API.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "files": {"errors"},
    "graphs": set(),
    "fabrics": {"errors", "units", "graphs"},
    "workloads": {"errors", "units", "files", "graphs"},
    "engine": {"errors", "units", "fabrics", "workloads"},
    "results": {"errors", "units", "files", "fabrics", "workloads", "engine"},
    "campaigns": {"errors", "units", "files", "fabrics", "workloads", "engine", "results"},
    "fabricsim": {"errors", "units", "fabrics", "workloads", "engine", "results", "campaigns"},
    "cli": {"errors", "units", "fabrics", "workloads", "engine", "results", "campaigns", "fabricsim"},
    "__main__": {"cli", "results"},
}

HEAVY = {"bokeh", "llvmlite", "numba", "pandas", "perfetto", "pyarrow", "pydantic", "rich"}


def part_of(module: str) -> str:
    """Return the part that a dotted module name belongs to: ``fabricsim.engine.kernel`` -> ``engine``."""
    names = module.split(".")
    return names[1] if len(names) > 1 else names[0]


def is_module(name: str) -> bool:
    """Tell whether a dotted name is a module or package of fabricsim rather than a name inside one."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of every fabricsim module that a source imports, at whatever depth.

    A string that is a whole dotted module name counts too: lazy ``__getattr__`` tables hold such strings.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            dotted = re.fullmatch(r"fabricsim(\.\w+)+", node.value)
            names = [node.value] if dotted and is_module(node.value) else []
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "fabricsim")


def modules() -> Iterator[tuple[Path, str, str]]:
    """Yield path, dotted name and enclosing package of every module of fabricsim."""
    for path in sorted(PACKAGE.rglob("*.py")):
        names = list(path.relative_to(ROOT).with_suffix("").parts)
        package = ".".join(names[:-1])
        yield path, package if names[-1] == "__init__" else ".".join(names), package


def test_every_module_belongs_to_a_known_part() -> None:
    """A new part of the package must say here what it may import."""
    assert {part_of(name) for _, name, _ in modules()} <= set(ARROWS)


def test_arrows_have_no_cycle() -> None:
    """Each part may import only parts that stand before it."""
    before: set[str] = set()
    for part, allowed in ARROWS.items():
        assert allowed <= before
        before.add(part)


def test_imports_follow_the_arrows() -> None:
    """No module imports a part above its own, not even inside a function or for types only."""
    against = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, module, package in modules()
        for line, name in imported_modules(path.read_text(encoding="utf-8"), package)
        if part_of(name) not in {part_of(module), *ARROWS[part_of(module)]}
    ]
    assert not against, "\n".join(against)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import fabricsim.engine.layout as layout", "fabricsim.engine.layout"),
        ("from fabricsim import errors", "fabricsim.errors"),
        ("from fabricsim import no_such_module", "fabricsim"),
        ("from fabricsim.engine.layout import Table", "fabricsim.engine.layout"),
        ("from ..engine import layout", "fabricsim.engine.layout"),
        ("from .network import Network", "fabricsim.fabrics.network"),
        ("def f():\n    from fabricsim import errors", "fabricsim.errors"),
        ("LAZY = {'Table': 'fabricsim.engine.layout'}", "fabricsim.engine.layout"),
    ],
)
def test_walk_sees_every_form_of_import(source: str, expected: str) -> None:
    """The walk that the test above relies on names the module of each form of import."""
    assert [name for _, name in imported_modules(source, "fabricsim.fabrics")] == [expected]


def command(*arguments: str) -> str:
    """Return a script that runs one command as ``python -m fabricsim`` does."""
    return f"import runpy; sys.argv = ['fabricsim', *{arguments}]; runpy.run_module('fabricsim', run_name='__main__')"


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        pytest.param("import fabricsim", set(), id="import"),
        pytest.param(command("--help"), set(), id="help"),
        pytest.param(command("run", "--help"), set(), id="run-help"),
        pytest.param(command("--version"), set(), id="version"),
        pytest.param(command("fabrics"), {"pydantic", "rich"}, id="fabrics"),
        pytest.param(command("fabrics", "nvl72", "--toml"), {"pydantic", "rich"}, id="toml"),
        pytest.param(
            command("run", "nvl72", "all_to_all", "--size", "1KiB", "--ranks", "2", "--kernel", "python"),
            {"pydantic", "rich"},
            id="run",
        ),
    ],
)
def test_light_commands_load_no_heavy_library(code: str, needed: set[str], tmp_path: Path) -> None:
    """Commands load none of the slow libraries that they do not need: numba for its kernel, pyarrow for tables."""
    loaded = tmp_path / "modules.json"
    script = f"""
import atexit, json, pathlib, sys
atexit.register(lambda: pathlib.Path({str(loaded)!r}).write_text(json.dumps(sorted(sys.modules))))
{code}
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    names = set(json.loads(loaded.read_text()))
    assert "fabricsim" in names
    assert not names & (HEAVY - needed)
