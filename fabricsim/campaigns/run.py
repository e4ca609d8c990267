"""Running a plan: what has no valid result yet, once, whoever else runs the same plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabricsim.campaigns.executors import Outcomes, Watch, default_executor, workers
from fabricsim.campaigns.plan import Case, Plan
from fabricsim.campaigns.store import Failure, Store
from fabricsim.campaigns.work import Order
from fabricsim.engine import backends
from fabricsim.engine.threads import default_threads
from fabricsim.errors import InterruptedRunError

#: Between two looks at cases that others are at work on.
LOOK_EVERY_S = 0.5

#: What is said of a run that a signal ends.
INTERRUPTED = "interrupted; what is done is kept, and the same command runs the cases without a result"

#: Told how many cases are done, and of how many.
Progress = Callable[[int, int], None]
#: Told of an event, ``failed`` or ``waiting``, in words.
Report = Callable[[str, str], None]


@dataclass
class Ran:
    """What a run did: how many cases it simulated, how many had a valid result, and why which ones failed."""

    cases: int
    done: int = 0
    valid: int = 0
    failures: dict[int, Failure] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Give that of the first case that failed, 0 where none did."""
        return self.failures[min(self.failures)].exit_code if self.failures else 0


def run_cases(
    plan: Plan,
    cases: Sequence[Case],
    *,
    executor: str | None = None,
    count: int | None = None,
    scheduler: str | None = None,
    kernel: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
    report: Report = lambda event, words: None,
    watch: Watch | None = None,
) -> Ran:
    """Give every case a valid result or a failure, and return what was done for that.

    A case that another run works on is waited for; where that ends without a result, it is run here. So is one that
    failed before.

    Parameters
    ----------
    plan, cases
        A plan, and those of its cases that are to be run.
    executor, count, scheduler
        As ``fabricsim.campaigns.executors.workers`` takes them; without an executor the one that fits how the process
        was started.
    kernel
        As for ``fabricsim.simulate``.
    threads
        Of each case; ``None`` is 1, and of a single case in this process the CPUs of the allocation.
    progress, report
        Told how far the run is, several times per second, and in words of what failed and what is waited for.
    watch
        As ``workers`` takes it.

    Raises
    ------
    InterruptedRunError, KeyboardInterrupt
        The run, or one of its workers, was terminated; both say what is kept.
    IncompleteError
        A worker is gone.
    ConfigError
        What ``workers`` raises, an unknown kernel, a folder that cannot be written, or a plan that has changed.
    """
    backends.choose(kernel)  # that there is none is no failure of a case
    store, ran = Store(plan), Ran(len(cases))
    left = [case for case in cases if store.result(case) is None]
    ran.valid = len(cases) - len(left)
    name = default_executor() if executor is None else executor
    if threads is None:
        threads = default_threads() if name == "local" and count is None and len(cases) == 1 else 1
    folder = str(plan.folder.resolve())
    orders = [Order(folder, plan.sha256, case.index, kernel, threads, store.failure_stamp(case)) for case in left]
    try:
        with workers(name, cases=len(left), count=count, scheduler=scheduler, threads=threads, watch=watch) as outcomes:
            _bring_to_an_end(plan, orders, outcomes, ran, progress, report)
    except InterruptedRunError:
        raise InterruptedRunError(INTERRUPTED) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(INTERRUPTED) from None
    return ran


def _bring_to_an_end(
    plan: Plan, orders: list[Order], outcomes: Outcomes, ran: Ran, progress: Progress, report: Report
) -> None:
    """Get an outcome for each order, and count it in *ran*; what others work on is tried again when they end."""
    store = Store(plan)
    waited = False

    def tell() -> None:
        progress(ran.done + ran.valid + len(ran.failures), ran.cases)

    while orders:
        claimed = set()
        for outcome in outcomes(orders):
            if outcome is not None and outcome.state == "interrupted":
                raise InterruptedRunError(INTERRUPTED)
            if outcome is not None and outcome.state == "claimed":
                claimed.add(outcome.index)
            elif outcome is not None:
                ran.done += outcome.state == "done"
                ran.valid += outcome.state == "valid"
                if outcome.failure is not None:
                    ran.failures[outcome.index] = outcome.failure
                    name = plan.cases[outcome.index].case
                    report("failed", f"case {outcome.index} ({name}) failed, {in_a_line(outcome.failure)}")
            tell()
        orders = [order for order in orders if order.index in claimed]
        if orders:
            _wait(store, [plan.cases[order.index] for order in orders], tell, None if waited else report)
            waited = True


def _wait(store: Store, cases: Sequence[Case], tell: Callable[[], None], report: Report | None) -> None:
    """Return once somebody has ended one of the cases that others work on."""
    owner = store.owner(cases[0])
    if owner is not None and report is not None:
        report("waiting", f"waiting for {len(cases)} case{'s' * (len(cases) != 1)} of another run ({owner})")
    while all(store.owner(case) is not None for case in cases):
        time.sleep(LOOK_EVERY_S)
        tell()


def in_a_line(failure: Failure) -> str:
    """Say in a line why a case failed; of a traceback, which a defect leaves, the last one."""
    lines = failure.message.strip().splitlines() or ["no message"]
    return f"exit code {failure.exit_code}: {lines[-1 if failure.exit_code == 1 else 0]}"
