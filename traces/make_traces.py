"""Make the traces of this folder; README.md says what they are.

python traces/make_traces.py                  the generated MoE layers
python traces/make_traces.py --dlrm PATH...   also the recorded DLRM step, from the files that README.md names
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fabricsim.workloads.importers.kineto import import_kineto
from fabricsim.workloads.moe import moe_trace
from fabricsim.workloads.trace import Trace

DLRM_TRACE = "dlrm-8rank.arrow"
#: Travels with the file, also where README.md does not.
DLRM_SOURCE: Mapping[str, str] = {
    "origin": "facebookresearch/param, commit 1e115ff, et_replay/tests/inputs",
    "licence": "MIT, Copyright (c) Facebook, Inc. and its affiliates",
}

#: Arguments of ``moe_trace``; what is not here has its default.
MOE_TRACES: Mapping[str, Mapping[str, Any]] = {
    "moe-ep64.arrow": {"ep": 64, "tokens_per_rank": 1024},
    "moe-ep384.arrow": {"ep": 384, "tokens_per_rank": 128, "redundant_experts": 128},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the traces, compressed, into the folder asked for."""
    parser = argparse.ArgumentParser(description="Make the traces of this folder.")
    parser.add_argument(
        "--dlrm", nargs="+", metavar="PATH", help="profiler files and execution traces of the DLRM step"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="where to write"
    )
    options = parser.parse_args(arguments)
    for name, parameters in MOE_TRACES.items():
        moe_trace(**parameters).write(options.output / name, compression="zstd")
    if options.dlrm:
        dlrm_trace(options.dlrm).write(options.output / DLRM_TRACE, compression="zstd")


def dlrm_trace(paths: Sequence[str]) -> Trace:
    """Import the recording, and put into the metadata whose it is."""
    trace = import_kineto(paths)
    metadata = replace(trace.metadata, source={**DLRM_SOURCE, **(trace.metadata.source or {})})
    return Trace.from_table(trace.table().replace_schema_metadata(metadata.to_arrow()))


if __name__ == "__main__":
    main()
