"""Who works on the cases of a campaign: executors of concurrent.futures, of processes here, of MPI or of Dask."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Any

from fabricsim.campaigns.work import Order, Outcome, RunProgress, ending, work_on
from fabricsim.engine.threads import default_threads
from fabricsim.errors import ConfigError, IncompleteError, unknown

EXECUTORS = ("local", "mpi", "dask")
MPI_COMMAND = "mpirun -n N python -m mpi4py.futures -m fabricsim campaign run DIR --executor mpi"

#: A worker that was told to end and has not after this long, because it compiles, is left no choice.
END_WITHIN_S = 1.0

#: How long a signal, or a look at the clock, may wait while all others work.
WAKE_EVERY_S = 0.2

#: What launchers and terminals send to all processes of a group; those that work for another one leave it to that one.
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

#: Makes outcomes of orders, each as soon as it is there; ``None`` now and then while there is none.
Outcomes = Callable[[Iterable[Order]], Iterator[Outcome | None]]
#: Gives, for the index of a case that is run in this process, whom to tell how far it is.
Watch = Callable[[int], RunProgress]


def default_executor() -> str:
    """Name the executor of a command that names none: that of MPI where MPI started it as a master of workers."""
    return "mpi" if _has_mpi_workers() else "local"


@contextmanager
def workers(
    name: str, *, cases: int, count: int | None, scheduler: str | None, threads: int, watch: Watch | None = None
) -> Iterator[Outcomes]:
    """Start workers, and give what makes outcomes of orders; end them with the block.

    Parameters
    ----------
    name
        One of ``EXECUTORS``.
    cases
        How many there are to be worked on; more processes are not started.
    count
        Of ``local``: processes; ``None`` is one for each CPU of the allocation, over ``threads``.
    scheduler
        Of ``dask``: the address of its scheduler.
    threads
        That each worker computes with.
    watch
        Of ``local``, where no process is started: whom to tell how far a case is.

    Raises
    ------
    ConfigError
        An unknown name, an option of another executor, more processes than CPUs, or an extra that is not installed.
    """
    if name not in EXECUTORS:
        raise ConfigError(unknown("executor", name, EXECUTORS))
    if count is not None and name != "local":
        raise ConfigError(f"--workers is for the executor local; {name} has the workers that were started for it")
    if (scheduler is not None) != (name == "dask"):
        raise ConfigError("--scheduler ADDR and --executor dask belong together; give both, or none of them")
    if threads < 1:
        raise ConfigError(f"--threads {threads}: give 1 or more, or leave it out")
    with ExitStack() as stack:
        if name == "local":
            number = min(_count(count, threads), cases)
            if number <= 1:
                yield lambda orders: (work_on(order, watch and watch(order.index)) for order in orders)
                return
            executor: Executor = stack.enter_context(_processes(number))
        elif name == "mpi":
            executor = stack.enter_context(_mpi())
        else:
            assert scheduler is not None
            executor = stack.enter_context(_dask(scheduler))
        yield lambda orders: _all(executor, orders)


def _killed(remedy: str) -> IncompleteError:
    return IncompleteError(
        f"a worker was killed, perhaps for want of memory; run the same command again, {remedy}if memory is short"
    )


def _count(asked: int | None, threads: int) -> int:
    cpus = default_threads()
    if threads > cpus:
        raise ConfigError(f"--threads {threads} is more than the {cpus} CPUs given to this process; use at most {cpus}")
    if asked is None:
        return cpus // threads
    if not 1 <= asked <= cpus // threads:
        raise ConfigError(
            f"--workers {asked} of {threads} thread{'s' * (threads != 1)} do not fit the {cpus} CPUs given to this "
            f"process; use 1 to {cpus // threads}"
        )
    return asked


def _all(executor: Executor, orders: Iterable[Order]) -> Iterator[Outcome | None]:
    ended: SimpleQueue[Future[Outcome]] = SimpleQueue()
    try:
        with _blocked():  # this starts the processes, and they are born so
            futures = [executor.submit(work_on, order) for order in orders]
        for future in futures:
            future.add_done_callback(ended.put)
        left = len(futures)
        while left:
            try:  # Python handles a signal that another thread got once this one wakes up
                future = ended.get(timeout=WAKE_EVERY_S)
            except Empty:
                yield None
                continue
            left -= 1
            yield future.result()
    except BrokenExecutor:
        raise _killed("with fewer --workers ") from None


@contextmanager
def _blocked() -> Iterator[None]:
    """Let signals to the group wait, here and in what is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Start processes that end with this one: they watch a pipe of which only this one has the other end."""
    context = multiprocessing.get_context("spawn")  # not fork: threads of a kernel do not survive that
    reader, writer = context.Pipe(duplex=False)
    with _blocked():  # for the process that tracks semaphores; it ends with this one
        executor = ProcessPoolExecutor(count, context, _begin, (reader,))
    try:
        yield executor
    except BaseException:
        with _blocked():  # the workers end at once; a signal more may not keep this one from waiting for that
            writer.close()
            executor.shutdown(cancel_futures=True)
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        writer.close()
        reader.close()


def _begin(reader: Connection) -> None:
    """Begin a worker: signals are for the process that started it, of whose end the pipe tells."""
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # between two cases; see work.py for what happens within one
    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)  # blocked since the process began


def _end_with(reader: Connection) -> None:
    wait([reader])
    ending.set()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(END_WITHIN_S)
    os._exit(128 + signal.SIGTERM)


def _has_mpi_workers() -> bool:
    """Tell whether this is the master that ``python -m mpi4py.futures`` starts; nothing else here imports that."""
    return "mpi4py.futures" in sys.modules


@contextmanager
def _mpi() -> Iterator[Executor]:
    if not _has_mpi_workers():
        _need("mpi4py", "mpi")
        # Without its launcher mpi4py would spawn processes, which many machines forbid.
        raise ConfigError(f"--executor mpi needs the launcher of mpi4py; start it as {MPI_COMMAND}")
    from mpi4py.futures import MPIPoolExecutor

    # Launchers pass it on to all ranks; to this one it is a question (docs/batch.md).
    executor: Executor = MPIPoolExecutor(initializer=signal.signal, initargs=(signal.SIGUSR1, signal.SIG_IGN))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _dask(scheduler: str) -> Iterator[Executor]:
    _need("distributed", "dask")
    from distributed import Client, KilledWorker

    try:
        client: Any = Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}); give the address that dask scheduler "
            "prints, such as tcp://node1:8786"
        ) from None
    with client:
        executor: Executor = client.get_executor()
        try:
            yield executor
        except KilledWorker:
            raise _killed("with fewer workers on a node ") from None
        finally:
            executor.shutdown(wait=False)


def _need(module: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ConfigError(f"--executor {extra} needs {module}; install it with pip install 'fabricsim[{extra}]'")
