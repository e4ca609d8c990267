"""How setup.py compiles the C kernel: with cffi, as ``fabricsim/engine/_ckernel.abi3.so``.

Two environment variables are for those who work on the kernel. With either of them a build that fails is an error;
without, the package installs and runs on the Numba kernel.

* ``FABRICSIM_STRICT=1``: warnings are errors.
* ``FABRICSIM_SANITIZE=1``: AddressSanitizer and UndefinedBehaviorSanitizer watch the kernel (``make sanitize``).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parent
HEADERS = ("state.h", "kernel.h")  # in this order: the second needs the types of the first

strict = bool(os.environ.get("FABRICSIM_STRICT"))
sanitize = bool(os.environ.get("FABRICSIM_SANITIZE"))

# -O3 by name: some Pythons hand down -O2. No -march: a wheel has to run on other machines than the one that built it.
options = ["-std=c99", "-O3"]
if strict:
    options += ["-Wall", "-Wextra", "-Werror"]
if sanitize:  # -fno-wrapv: Python compiles with -fwrapv, under which no overflow is an error
    options += [
        "-g",
        "-O1",
        "-fno-wrapv",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]

# fabricsim/engine/backends.py makes the same sum, and where sources lie beside the package refuses a module of others.
sources_sha256 = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(CSRC.glob("*.[ch]")))).hexdigest()

declarations = "".join((CSRC / name).read_text(encoding="utf-8") for name in HEADERS)

ffibuilder = FFI()
ffibuilder.cdef(re.sub(r"^#define .*\n", "", declarations, flags=re.MULTILINE))  # cffi knows no (-1); nobody asks it
ffibuilder.cdef("extern const char fabric_sources_sha256[65];")
ffibuilder.set_source(
    "fabricsim.engine._ckernel",
    "#include <stdint.h>\n"
    + "".join(f'#include "{name}"\n' for name in HEADERS)
    + f'const char fabric_sources_sha256[65] = "{sources_sha256}";\n',
    sources=["csrc/kernel.c", "csrc/plain.c"],
    depends=[f"csrc/{name}" for name in HEADERS],  # setuptools packs these into an sdist and compiles again after them
    include_dirs=["csrc"],
    extra_compile_args=options,
    extra_link_args=["-fsanitize=address,undefined"] if sanitize else [],
    optional=not (strict or sanitize),
)
