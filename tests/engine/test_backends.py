"""Which kernel runs, and what is said where one cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fabricsim.engine import backends
from fabricsim.engine.backends import choose  # conftest.py puts another one in its place
from fabricsim.engine.layout import DTYPES
from fabricsim.errors import ConfigError

needs_c = pytest.mark.skipif(backends.c_problem() is not None, reason=f"the C kernel is {backends.c_problem()}")
NOT_BUILT = "not built: install a C compiler (gcc or clang), then install fabricsim again"


@pytest.fixture
def no_c_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the compiled module away."""
    monkeypatch.setitem(sys.modules, backends.C_MODULE, None)
    monkeypatch.setattr(backends, "_c_module", backends._c_module.__wrapped__)


def test_an_unknown_kernel_is_refused() -> None:
    """The message lists the kernels that there are."""
    with pytest.raises(ConfigError, match="auto, numba, c, python"):
        choose("fortran")


@needs_c
def test_auto_takes_the_c_kernel_where_it_is_built() -> None:
    """All three kernels run, and ``auto`` is the first of them."""
    assert choose("auto") == ("c", "auto: it is built, and the first choice")
    assert choose("c") == ("c", "asked for")
    assert [row.name for row in backends.available() if row.usable] == ["c", "numba", "python"]


@pytest.mark.usefixtures("no_c_kernel")
def test_without_the_c_kernel_numba_runs() -> None:
    """``auto`` takes Numba and says why; whoever asks for C gets the remedy."""
    assert choose("auto") == ("numba", f"auto: the C kernel is {NOT_BUILT}")
    assert [row.name for row in backends.available() if row.usable] == ["numba", "python"]
    assert backends.available()[0].reason == NOT_BUILT
    with pytest.raises(ConfigError, match=r"not built: install a C compiler.* or use --kernel auto or numba"):
        choose("c")


@needs_c
def test_a_kernel_of_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any change in csrc/ the kernel has to be built again; without sources beside it, it is taken as it is."""
    problem = backends._c_module.__wrapped__
    copies = tmp_path / "csrc"
    monkeypatch.setattr(backends, "CSRC", copies)
    assert problem()[1] is None
    shutil.copytree(Path(backends.__file__).parents[2] / "csrc", copies)
    assert problem()[1] is None
    for source in copies.glob("*.[ch]"):
        text = source.read_text(encoding="utf-8")
        source.write_text(text + "\n", encoding="utf-8")
        assert "csrc/ changed since it was built; rebuild it with a C compiler and pip install -e ." in problem()[1]
        source.write_text(text, encoding="utf-8")
    assert problem()[1] is None


@needs_c
@pytest.mark.parametrize("table", DTYPES)
def test_a_kernel_of_another_layout_is_not_used(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One field of any table renamed, or widened, and the compiled kernel is refused."""
    problem = backends._c_module.__wrapped__
    (first, kind), *rest = [(name, DTYPES[table][name]) for name in DTYPES[table].names or ()]
    for other in [("renamed", kind), (first, np.dtype((kind, 2)))]:
        monkeypatch.setitem(DTYPES, table, np.dtype([other, *rest], align=True))
        assert "the tables have another layout now; rebuild it with a C compiler and pip install -e ." in problem()[1]
    monkeypatch.undo()
    assert problem()[1] is None


def test_a_module_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of a compiled kernel that it cannot load is passed on."""

    def fail(name: str) -> None:
        raise ImportError("libfabric.so: no such file", name="libfabric")

    monkeypatch.setattr("importlib.import_module", fail)
    assert backends._c_module.__wrapped__()[1] == ("broken: libfabric.so: no such file; install fabricsim again")


@needs_c
def test_the_c_kernel_needs_no_numba() -> None:
    """From the import to the last event a run in C loads neither Numba nor cffi's compiler side."""
    code = (
        "import sys; sys.modules['numba'] = sys.modules['cffi'] = None\n"
        "import fabricsim as fs\n"
        "workload = fs.collective('all_to_all', size='4KiB', ranks=4)\n"
        "print(fs.simulate('nvl72', workload).record.kernel)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(backends.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "c"
