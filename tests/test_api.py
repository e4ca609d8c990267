from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fabricsim as fs
from tests.results.small import small_trace, tiny_fabric

INIT = Path(fs.__file__)


def test_every_public_name_is_there() -> None:
    """All that __all__ promises can be had, is listed by dir(), and is the same object when asked for again."""
    for name in fs.__all__:
        assert getattr(fs, name) is getattr(fs, name)
        assert name in dir(fs)


def test_type_checkers_see_every_public_name() -> None:
    """The names of __all__ are imported or declared in the source, so that a strict checker knows their types."""
    declared = set()
    for node in ast.walk(ast.parse(INIT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            declared.update(alias.name for alias in node.names)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared.add(node.target.id)
    assert set(fs.__all__) <= declared
    assert INIT.with_name("py.typed").exists()


def test_unknown_names_are_attribute_errors() -> None:
    """A misspelt name fails as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fs.simulat  # noqa: B018


def test_the_version_has_one_source() -> None:
    """Without an installed package there is no version, and no second copy of one."""
    from importlib import metadata

    try:
        expected = metadata.version("fabricsim")
    except metadata.PackageNotFoundError:
        expected = "not installed"
    assert fs.__version__ == expected


def test_the_documented_session_works() -> None:
    """What the package's docstring shows, on a fabric cut down to 4 GPUs."""
    fabric = tiny_fabric()
    result = fs.simulate(fabric, fs.collective("all_to_all", size="4KiB", ranks=4), kernel="python")
    assert result.ops.num_rows == 1
    assert result.channels.num_rows == 16
    assert result.summary()["digest"] == result.digest
    assert fs.replay(small_trace(), fabric, kernel="python").ops.num_rows == 2
    assert isinstance(result, fs.Result)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (fs.ConfigError, 2),
        (fs.TraceError, 3),
        (fs.StallError, 4),
        (fs.SelfCheckError, 5),
        (fs.CheckpointedError, 75),
        (fs.InterruptedRunError, 143),
    ],
)
def test_every_error_has_an_exit_code_and_one_root(error: type[fs.FabricsimError], code: int) -> None:
    """One except clause catches all that fabricsim raises on purpose."""
    assert issubclass(error, fs.FabricsimError)
    assert error.exit_code == code
