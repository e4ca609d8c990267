"""The tables of a run on their way into a checkpoint and back.

A checkpoint is made between two slices, of what ``Simulation.dump`` gives, and ``Simulation.load`` puts it into a run
that was made anew from the same network and workload. What it holds depends neither on the kernel nor on the threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fabricsim.engine.layout import DTYPES, Rows, State
from fabricsim.engine.state import rows


def layout_sha256() -> str:
    """Return a hash of all tables and fields; tables of another layout say nothing here."""
    return hashlib.sha256(repr([(name, dtype.descr) for name, dtype in DTYPES.items()]).encode()).hexdigest()


def load_state(stored: Mapping[str, Rows]) -> State:
    """Return the state whose tables are stored by their names, each from the begin of a cache line on."""
    tables = {}
    for name in State._fields:
        held = stored[name]
        tables[name] = rows(name, len(held))[: len(held)]
        tables[name][:] = held
    return State(**tables)
