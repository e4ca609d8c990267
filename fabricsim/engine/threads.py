"""Threads: the domains of an epoch over a few of them, with a barrier at its end."""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from fabricsim.engine.backends import Run
from fabricsim.engine.layout import Code, Part, State
from fabricsim.errors import ConfigError

#: Packets that a thread starts before it looks which domain is behind.
TURN_EVENTS = 100_000

#: An epoch after one with fewer packet-hops than this runs on one thread: to wake another takes longer.
WORTH_HOPS = 5_000

#: But only for so long [s], for it may have more: the last of a run has no end.
ALONE_S = 0.001


#: Where Linux says to which control group a process belongs, and what its groups may use (cgroups, version 2).
OWN_CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def default_threads() -> int:
    """Return how many threads to use unless told: ``SLURM_CPUS_PER_TASK``, but no more than ``most_threads``."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given and (not given.isdecimal() or int(given) == 0):
        raise ConfigError(f"SLURM_CPUS_PER_TASK is {given!r}, not a number of CPUs; correct it or give --threads")
    return min(int(given), most_threads()) if given else most_threads()


def threads_at_hand(asked: int | None) -> int | None:
    """Return what was asked for, but no more than ``most_threads``: others would only be in the way."""
    return None if asked is None else min(asked, most_threads())


def most_threads() -> int:
    """Return how many CPUs this process may use: those that it may run on, and its control group's time on them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(cpus, cgroup_cpus()))


def cgroup_cpus() -> float:
    """Return the CPUs' worth of time that the control groups of this process allow it; infinity where none limits."""
    try:
        (own,) = (line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError):
        return math.inf
    cpus = math.inf
    group = CGROUPS / own.strip("/")
    for folder in (group, *group.parents):
        try:
            quota_us, period_us = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):  # the root has none
            quota_us = period_us = "max"
        if quota_us != "max":
            cpus = min(cpus, int(quota_us) / int(period_us))
        if folder == CGROUPS:
            break
    return cpus


def threads_of_run(asked: int | None, num_domains: int) -> int:
    """Return how many threads a run uses: at most one per domain; ConfigError for fewer than one."""
    if asked is not None and asked < 1:
        raise ConfigError(f"--threads {asked}: give 1 or more, or leave it out")
    return min(default_threads() if asked is None else asked, num_domains)


class Threads:
    """Several threads that run one state; what they compute does not depend on who takes which domain."""

    def __init__(self, run: Run, count: int) -> None:
        self._run = run
        self._count = count
        self._pool = ThreadPoolExecutor(count - 1, "fabricsim")
        self._last_hops = 0

    def __enter__(self) -> Self:
        """Keep the threads until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the threads end."""
        self._pool.shutdown()

    def advance(self, state: State, seconds: float) -> Code:
        """Run for about so many seconds; return a Code as a kernel does."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            if not state.clock["epoch_open"][0]:
                code = Code(self._run(state, int(Part.OPEN), 0))
                if code != Code.SLICE:
                    return code
            before = int(state.domains["hops"].sum())
            helpers = self._count - 1 if self._last_hops >= WORTH_HOPS else 0
            turns = Turns(self._run, state, until_s if helpers else time.monotonic() + ALONE_S, self._count)
            waiting: list[Future[None]] = []
            try:
                waiting.extend(self._pool.submit(turns.help) for _ in range(helpers))
                turns.take()
            finally:
                turns.end()
            for future in waiting:
                future.result()
            self._last_hops = int(state.domains["hops"].sum()) - before
            if turns.code != Code.DONE:
                return turns.code
            code = Code(self._run(state, int(Part.CLOSE), 0))
            if code != Code.SLICE:
                return code
        return Code.SLICE


class Turns:
    """Who runs which domain next: the one that is farthest behind, so that no thread is left without work at the end.

    While many wait a thread stays with its domain, which it has in its cache.
    """

    def __init__(self, run: Run, state: State, until_s: float, count: int) -> None:
        self._run = run
        self._state = state
        self._until_s = until_s
        self._many = 2 * count
        self._lock = threading.Condition()
        self._helping = 0
        self._behind = [(int(start), domain) for domain, start in enumerate(state.domains["window_start_ps"])]
        heapq.heapify(self._behind)
        self.code = Code.DONE  #: the first that was neither DONE nor one more SLICE

    def help(self) -> None:
        """Take turns on another thread than the main one."""
        with self._lock:
            self._helping += 1
        try:
            self.take()
        finally:
            with self._lock:
                self._helping -= 1
                self._lock.notify()

    def end(self) -> None:
        """Let no thread begin another turn, and wait for those in one.

        Ctrl-C can come while the pool starts a thread, and then the pool knows nothing of it: so count them here.
        """
        with self._lock:
            self._until_s = 0.0
            self._lock.wait_for(lambda: self._helping == 0)

    def take(self) -> None:
        """Run domains, turn by turn, until none is left or something has to be done between turns."""
        domain = -1
        while True:
            with self._lock:
                if self.code != Code.DONE or (domain < 0 and not self._behind):
                    return
                if time.monotonic() >= self._until_s:
                    self.code = Code.SLICE
                    return
                if domain < 0:
                    _, domain = heapq.heappop(self._behind)
            code = Code(self._run(self._state, domain, TURN_EVENTS))
            with self._lock:
                if code not in (Code.SLICE, Code.DONE):
                    self.code = code
                elif code == Code.SLICE and len(self._behind) >= self._many:
                    continue  # with the same domain
                elif code == Code.SLICE:
                    heapq.heappush(self._behind, (int(self._state.domains["window_start_ps"][domain]), domain))
                domain = -1
