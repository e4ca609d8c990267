"""Counts instructions per packet-hop under valgrind: ``python -m bench.instructions > instructions.jsonl``.

Callgrind counts only while the engine runs, whatever else the machine does. Valgrind has no AVX-512: Numba compiles for
the processor that valgrind shows it, once, which takes minutes and is kept like any compiled kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

from bench.cases import CASES, compiled_kernels

#: A load a quarter of the timed one; the start of a run costs more instructions, so a smaller one would mislead.
NUM_PACKETS = 1 << 16

#: Where callgrind writes; set in the process that it watches.
OUTPUT = "FABRICSIM_CALLGRIND_OUTPUT"


def main(arguments: Sequence[str] | None = None) -> None:
    """Start valgrind on this module, or count if it already watches."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="only cases named so, such as 'clos72-4096B-*-uniform'")
    pattern = parser.parse_args(arguments).pattern
    if OUTPUT in os.environ:
        count(pattern, Path(os.environ[OUTPUT]))
        return
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; the table shows - for what it would count")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "callgrind")
        watch = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}"]
        command = [*watch, sys.executable, "-m", "bench.instructions", pattern]
        sys.exit(subprocess.run(command, check=False, env={**os.environ, OUTPUT: str(output)}).returncode)


def count(pattern: str, output: Path) -> None:
    """Print a line of JSON per case and kernel: the row, the kernel, packet-hops and instructions."""
    cases = [case for case in CASES if fnmatch(str(case), pattern)]
    for dumps, (case, kernel) in enumerate(product(cases, compiled_kernels()), start=1):
        simulation = case.simulation(kernel=kernel, num_packets=NUM_PACKETS)
        simulation.advance(0)  # compiles
        control("--instr=on")
        record = simulation.run()
        control("--instr=off")
        control("--dump")  # into a file of the next number; it sets the counts back to zero
        (total,) = re.findall(r"^totals: (\d+)", Path(f"{output}.{dumps}").read_text("utf-8"), re.MULTILINE)
        entry = {"row": vars(case), "kernel": kernel, "packet_hops": record.packet_hops, "instructions": int(total)}
        print(json.dumps(entry), flush=True)


def control(option: str) -> None:
    """Tell callgrind something about this very process."""
    subprocess.run(["callgrind_control", option, str(os.getpid())], check=True, capture_output=True)


if __name__ == "__main__":
    main()
