"""One case, in whatever process: claim it, simulate it, keep what came out. A signal ends that in order."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Literal, NoReturn, Self

from fabricsim.campaigns.plan import Case, Plan, open_plan
from fabricsim.campaigns.store import Failure, Store
from fabricsim.engine.driver import Progress
from fabricsim.errors import ConfigError, FabricsimError, InterruptedRunError
from fabricsim.results.run import simulate
from fabricsim.results.signals import ECHO_S
from fabricsim.workloads.collectives import collective

#: Told now and then how far the run of a case is.
RunProgress = Callable[[Progress], None]

#: Set in a worker process that is to end: what it simulates is broken off, and nothing more is begun.
ending = threading.Event()

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Order:
    """What a worker is told of a case: where the plan is, by which hash to know it, and how to compute.

    ``failed_before`` is the stamp of the failure that this run tries to mend: one with another stamp is newer, another
    run's, and stands.
    """

    folder: str
    plan_sha256: str
    index: int
    kernel: str
    threads: int
    failed_before: int | None


@dataclass(frozen=True)
class Outcome:
    """What became of a case; ``failure`` stands with ``failed`` alone.

    ``valid``: its result was there. ``claimed``: somebody else is at work on it. ``interrupted``: neither done nor
    failed.
    """

    index: int
    state: Literal["done", "valid", "claimed", "failed", "interrupted"]
    failure: Failure | None = None


def work_on(order: Order, progress: RunProgress | None = None) -> Outcome:
    """Bring one case to its end unless somebody else does; what hinders that, but not the case itself, is raised."""
    if ending.is_set():
        return Outcome(order.index, "interrupted")
    plan = _plan(order.folder, order.plan_sha256)
    case, store = plan.cases[order.index], Store(plan)
    with _Interruptible() as interruptible, store.claim(case) as is_ours:
        if not is_ours:
            return Outcome(case.index, "claimed")
        if store.result(case) is not None:  # somebody else's, since we were told to
            return Outcome(case.index, "valid")
        failure = store.failure(case)
        if failure is not None and store.failure_stamp(case) != order.failed_before:
            return Outcome(case.index, "failed", failure)
        try:
            with interruptible.now():
                result = _simulate(plan, case, order, progress)
        except InterruptedRunError:
            return Outcome(case.index, "interrupted")
        except FabricsimError as error:
            failure = Failure(error.exit_code, str(error))
        except Exception:
            failure = Failure(1, traceback.format_exc())
        else:
            store.write_result(case, result)
            return Outcome(case.index, "done")
        store.write_failure(case, failure)
        return Outcome(case.index, "failed", failure)


@lru_cache(maxsize=4)
def _plan(folder: str, sha256: str) -> Plan:
    """Read the plan once in a process, and see that it is the one that the order was given for."""
    plan = open_plan(folder)
    if plan.sha256 != sha256:
        raise ConfigError(f"{folder}: its plan has changed while it is run; run it again")
    return plan


def _simulate(plan: Plan, case: Case, order: Order, progress: RunProgress | None) -> dict[str, object]:
    workload = collective(
        case.collective,
        size=case.size_bytes,
        ranks=case.ranks,
        algorithm=case.algorithm,
        tokens=case.tokens,
        skew=case.skew,
    )
    result = simulate(
        plan.spec(case),
        workload,
        seed=case.seed,
        kernel=order.kernel,
        threads=order.threads,
        routing=case.routing,
        packet=case.packet,
        endpoint=case.endpoint,
        placement=case.placement,
        faults=case.faults,
        progress=progress,
    )
    return result.summary()


class _Interruptible:
    """SIGTERM and Ctrl-C end a simulation at once, but a claim is always given back and a file written whole.

    In the block of ``now`` the first signal raises ``InterruptedRunError``. Outside of it a signal waits for the end of
    the context and is then what it would have been without. A second one ends the process, unless it comes within
    ``ECHO_S``, or after ``ending`` has been set: then it is the first one, by another way. Off the main thread, where
    Python handles no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._got: int | None = None
        self._got_s = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        if self._got is not None:
            signal.raise_signal(self._got)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._got is not None:
            if not ending.is_set() and time.monotonic() - self._got_s >= ECHO_S:
                os._exit(128 + number)
            return
        self._got, self._got_s = number, time.monotonic()
        if self._is_open:
            self._stop()

    def _stop(self) -> NoReturn:
        self._is_open = False
        raise InterruptedRunError("terminated while a case was simulated")

    @contextmanager
    def now(self) -> Iterator[None]:
        """Let a signal end the block."""
        self._is_open = True
        try:
            if self._got is not None or ending.is_set():
                self._stop()
            yield
        finally:
            self._is_open = False
