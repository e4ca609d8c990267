"""What is packaged, declared and promised outside the code agrees with the code."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fabricsim.engine import backends

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("bench", "csrc", "docs", "fabricsim", "tests", "traces")
# Imported parts of a dependency that come as distributions of their own. The dependency pins their releases, so
# pyproject.toml does not name them.
PINNED_BY = {"llvmlite": "numba", "pydantic_core": "pydantic"}
UNWANTED = ("*.py[cod]", "*.so", "__pycache__")
KERNEL = "fabricsim/engine/_ckernel.abi3.so"


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from a copy of the sources, the wheel from that sdist, and return their folder."""
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    for name in (*FOLDERS, ".ci"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns(*UNWANTED))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, sources)

    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    ended = subprocess.run([sys.executable, "-c", code], check=False, cwd=sources, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    build_wheel(folder, folder, os.environ)
    return folder


def build_wheel(sdist_folder: Path, folder: Path, environment: Mapping[str, str]) -> Path:
    """Build the wheel from the one sdist in a folder, without a network, and return its path."""
    (sdist,) = sdist_folder.glob("*.tar.gz")
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", str(folder), str(sdist)]
    ended = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_sdist_holds_what_a_rebuild_needs(built: Path) -> None:
    """The sdist carries the C sources, traces, tests, documents and the licence beside the package."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    wanted = ["LICENSE", "CHANGELOG.md", "README.md", "Makefile", ".ci/run", "setup.py", "pyproject.toml"]
    for folder in FOLDERS:
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        names = (path.relative_to(ROOT).as_posix() for path in files)
        wanted += [name for name in names if not any(Path(name).match(pattern) for pattern in UNWANTED)]
    assert set(wanted) <= held


def test_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """The wheel carries every module, data file and type marker, the licence and the command, and no tests."""
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        held = {name for name in opened.namelist() if not name.endswith("/")}
        (entry_points,) = (name for name in held if name.endswith(".dist-info/entry_points.txt"))
        commands = opened.read(entry_points).decode()
    files = (
        path
        for path in (ROOT / "fabricsim").rglob("*")
        if path.suffix in (".py", ".toml", ".json", ".csv", ".jinja", ".typed")
    )
    modules = {name for name in held if ".dist-info/" not in name}
    assert modules - {KERNEL} == {path.relative_to(ROOT).as_posix() for path in files}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)
    assert "fabricsim = fabricsim.__main__:run" in commands


def test_the_kernel_is_compiled_from_the_sdist(built: Path) -> None:
    """The sdist has all that the C kernel is compiled from, and the wheel runs on this Python and all later ones."""
    problem = backends.c_problem()
    if problem is not None:
        pytest.skip(f"the C kernel of this checkout is {problem}")
    (archive,) = built.glob("*.whl")
    assert "-cp311-abi3-" in archive.name
    with zipfile.ZipFile(archive) as opened:
        assert KERNEL in opened.namelist()


def test_without_a_compiler_the_package_installs_and_says_so(built: Path, tmp_path: Path) -> None:
    """Where compiling fails the wheel is built without the C kernel, and doctor names the remedy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FABRICSIM_")}
    wheel = build_wheel(built, tmp_path, {**environment, "CC": "/bin/false"})
    package = tmp_path / "package"
    with zipfile.ZipFile(wheel) as opened:
        assert KERNEL not in opened.namelist()
        opened.extractall(package)
    command = [sys.executable, "-m", "fabricsim", "doctor", "nvl72"]
    environment |= {"PYTHONPATH": str(package), "COLUMNS": "200"}
    ended = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    remedy = r"not built: install a C compiler \(gcc or clang\), then install fabricsim again"
    assert re.search(rf"^kernel c +not usable: {remedy}$", ended.stdout, re.MULTILINE)
    assert re.search(r"^--kernel auto +numba \(auto: the C kernel is not built", ended.stdout, re.MULTILINE)


def test_version_stands_in_one_place(pyproject: dict[str, Any]) -> None:
    """The installed version is that of pyproject.toml, and no module spells it out again."""
    version = pyproject["project"]["version"]
    assert importlib.metadata.version("fabricsim") == version
    modules = (ROOT / "fabricsim").rglob("*.py")
    assert [path for path in modules if f'"{version}"' in path.read_text(encoding="utf-8")] == []


def imported_distributions(folder: str) -> set[str]:
    """Return the top-level names that the modules of a folder import, the standard library and our own left out."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return {
        PINNED_BY.get(name, name) for name in names - set(sys.stdlib_module_names) - {"bench", "fabricsim", "tests"}
    }


def declared(requirements: list[str]) -> set[str]:
    """Return the distribution names of a list of requirements, as module names."""
    return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}


def test_imports_are_declared(pyproject: dict[str, Any]) -> None:
    """The package and its build import dependencies and extras; tests, benchmarks and scripts also the dev group."""
    extras = pyproject["project"]["optional-dependencies"]
    runtime = declared([*pyproject["project"]["dependencies"], *(name for extra in extras.values() for name in extra)])
    assert imported_distributions("fabricsim") <= runtime
    everywhere = runtime | declared(pyproject["dependency-groups"]["dev"])
    for folder in ("tests", "bench", "traces"):
        assert imported_distributions(folder) <= everywhere
    assert imported_distributions("csrc") <= declared(pyproject["build-system"]["requires"])


def test_readme_names_only_what_exists() -> None:
    """Every make target and every relative link in the README is there."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_lines_of_prose_are_short() -> None:
    """No line of a page has more than 120 characters, but rows of tables, code and what programs put there."""
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md")]
    found = []
    for path in (*pages, *sorted((ROOT / "docs").glob("*.md"))):
        # Blank out what is exempt, so that the lines keep their numbers.
        text = re.sub(
            r"^```.*?^```$|<!-- ([\w-]+) -->.*?<!-- /\1 -->",
            lambda exempt: "\n" * exempt[0].count("\n"),
            path.read_text(encoding="utf-8"),
            flags=re.DOTALL | re.MULTILINE,
        )
        lines = enumerate(text.splitlines(), start=1)
        found += [f"{path.name}:{number}" for number, line in lines if len(line) > 120 and not line.startswith("|")]
    assert found == []


def test_steps_without_make_are_those_of_make() -> None:
    """The README's steps without make run the commands that the Makefile runs for demo and test."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine: these steps are how its user got here")
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "PYTHON")}
    command = ["make", "--dry-run", "--always-make", "demo", "test"]
    recipes = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, env=env).stdout
    (steps,) = re.findall(r"<!-- without-make -->\n+```sh\n(.*?)```", README, re.DOTALL)
    for step in steps.splitlines():
        assert step in recipes.replace("--quiet ", "")


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python example runs as it stands; what it prints last is a digest."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"[0-9a-f]{64}", capsys.readouterr().out.splitlines()[-1])


def test_tracked_files_name_no_machine() -> None:
    """No tracked file holds the path of a home folder or of this checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    # safe.directory: the checkout may belong to another user, as one mounted into a container does.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True).stdout
    private = re.compile(rb"/(?:home|Users|root|work)/\w|" + re.escape(bytes(ROOT)) + rb"\b")
    tracked = [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    found = [path.relative_to(ROOT) for path in tracked if path.is_file() and private.search(path.read_bytes())]
    assert found == []
