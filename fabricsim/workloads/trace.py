"""The collective trace: what is recorded, one row per rank and operation (docs/trace-format.md).

This module is the way in; the parts live beside it: the declarations in ``trace_schema`` and
``trace_metadata``, numpy views in ``trace_columns``, files in ``trace_file``, making traces in ``trace_rows``, the
rules in ``trace_check``.
"""

from fabricsim.workloads.trace_check import TraceSummary, check, summary
from fabricsim.workloads.trace_columns import NULL_NS, TraceColumns
from fabricsim.workloads.trace_file import Trace
from fabricsim.workloads.trace_metadata import Clock, Completeness, Group, TraceMetadata
from fabricsim.workloads.trace_rows import trace_from_rows
from fabricsim.workloads.trace_schema import OP_CODES, OP_NAMES

__all__ = [
    "NULL_NS",
    "OP_CODES",
    "OP_NAMES",
    "Clock",
    "Completeness",
    "Group",
    "Trace",
    "TraceColumns",
    "TraceMetadata",
    "TraceSummary",
    "check",
    "summary",
    "trace_from_rows",
]
