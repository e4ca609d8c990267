"""Real parts on one node: Slurm with munge, Open MPI, a Dask scheduler. Each is started in a folder and ended again.

Nothing is installed here. Where a part is absent tests are skipped with the reason, or fail where
``FABRICSIM_REQUIRE_CLUSTER`` is set, as it is in ``.ci/run``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REQUIRED = "FABRICSIM_REQUIRE_CLUSTER"
#: Slurm is told of more CPUs than may be there, so that tasks run side by side on any machine.
CPUS = 4
PATIENCE_S = 60.0

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def need(*, programs: Sequence[str] = (), modules: Sequence[str] = ()) -> None:
    """Skip the test where a program or module is absent, or fail it where real parts are required."""
    absent = [name for name in programs if shutil.which(name, path=_search_path()) is None]
    absent += [name for name in modules if find_spec(name) is None]
    if not absent:
        return
    reason = f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge openmpi-bin; pip: mpi4py distributed)"
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason}, and {REQUIRED} is set")
    pytest.skip(reason)


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def environment() -> dict[str, str]:
    """The environment of commands: this checkout's package, found from any folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": _search_path()}


def wait_for(what: str, is_so: Callable[[], bool], *, seconds: float = PATIENCE_S, every: float = 0.05) -> None:
    """Look again and again until it is so; fail where it is not in time."""
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(every)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def daemon(command: Sequence[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own, and end that with the block."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env, cwd=log.parent, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run a one-node Slurm with a munge of its own, and give the environment in which its commands find it."""
    need(programs=("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue"))
    import pwd

    munge = folder / "munge"
    for path in (munge, folder / "state", folder / "spool"):
        path.mkdir(parents=True)
        path.chmod(0o755)
    key = munge / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    ctld_port, slurmd_port = free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(
        SLURM_CONF.format(
            folder=folder,
            host=host,
            user=pwd.getpwuid(os.getuid()).pw_name,
            cpus=CPUS,
            ctld_port=ctld_port,
            slurmd_port=slurmd_port,
        )
    )
    env = {**environment(), "SLURM_CONF": str(conf)}
    for name in [name for name in env if name.startswith(("SBATCH_", "SLURM_")) and name != "SLURM_CONF"]:
        del env[name]
    files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
    with ExitStack() as stack:
        munged = ["munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files]
        stack.enter_context(daemon(munged, folder / "munged.out", env))
        wait_for("the socket of munge", (munge / "socket").exists)
        stack.enter_context(daemon(["slurmctld", "-D", "-f", str(conf)], folder / "slurmctld.out", env))
        stack.enter_context(daemon(["slurmd", "-D", "-f", str(conf), "-N", host], folder / "slurmd.out", env))

        def is_up() -> bool:
            shown = subprocess.run(
                ["sinfo", "-h", "-p", "low", "-o", "%T"], env=env, capture_output=True, text=True, check=False
            )
            return shown.stdout.strip() == "idle"

        try:
            wait_for("an idle Slurm node", is_up, every=0.2)
        except BaseException:
            for name in ("munged", "slurmctld", "slurmd"):
                print(f"--- {name}\n{(folder / f'{name}.out').read_text(errors='replace')[-3000:]}", file=sys.stderr)
            raise
        yield env
        subprocess.run(["scancel", "--user", pwd.getpwuid(os.getuid()).pw_name], env=env, check=False)
        time.sleep(0.5)
