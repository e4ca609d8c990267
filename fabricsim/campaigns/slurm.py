"""A script for sbatch that runs a plan as a job array."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable

from fabricsim.campaigns.plan import LOGS, Plan
from fabricsim.campaigns.status import index_ranges, undone
from fabricsim.errors import ConfigError, InterruptedRunError

#: Before the end of a job's time Slurm sends its tasks SIGTERM; they end within 2 s of it.
WARN_S = 30

#: Tasks of an array, numbered from 0 on, that a Slurm takes whose MaxArraySize nobody has set (slurm.conf: 1001).
MAX_TASKS = 1_001

SCRIPT = """\
#!/bin/bash
# {title}: {cases} of {all_cases} cases, {tasks} array tasks. Submit it with: fabricsim campaign slurm {folder} | sbatch
# Options of sbatch, such as --time, --partition, --mem or --array=0-{last}%50, overrule those below.
#SBATCH --job-name=fabricsim
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --output={logs}/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@{warn_s}
indices=({indices})  # of the cases of each task
trap : TERM  # the shell outlives the signal
# With srun signals reach the simulation: a job that is pre-empted or out of time ends within 2 s, without a result.
srun --cpus-per-task={cpus} {python} -m fabricsim campaign run {folder} --index "${{indices[$SLURM_ARRAY_TASK_ID]}}"
code=$?
# Slurm itself puts a pre-empted job back into the queue only where it had to kill it after the partition's GraceTime.
task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
if [ $code -eq {terminated} ] && scontrol show job "$task" | grep -q "PreemptTime=[0-9]"; then
  scontrol requeue "$task"
fi
exit $code
"""


def script(
    plan: Plan,
    *,
    per_task: int = 1,
    cpus: int = 1,
    all_cases: bool = False,
    warn: Callable[[str, str], None] = lambda event, words: None,
) -> str:
    """Write the script for the cases without a valid result that nobody works on.

    Parameters
    ----------
    plan
        What to run.
    per_task
        Cases of each array task.
    cpus
        CPUs of each array task.
    all_cases
        Take all cases of the plan. Those that have a result are skipped when they come up.
    warn
        Told, as the event ``warning``, of an array that most Slurms refuse.

    Raises
    ------
    ConfigError
        Nothing is left to run, or a number below 1.
    """
    if per_task < 1 or cpus < 1:
        raise ConfigError(f"--per-task {per_task} --cpus {cpus}: give 1 or more of each")
    cases = plan.cases if all_cases else undone(plan)
    if not cases:
        raise ConfigError(f"{plan.folder}: every case is done or at work; merge it, or give --all for the whole array")
    parts = [index_ranges(cases[first : first + per_task]) for first in range(0, len(cases), per_task)]
    if len(parts) > MAX_TASKS:
        fewer = -(-len(cases) // MAX_TASKS)
        warn(
            "warning",
            f"{len(parts):,} array tasks; where MaxArraySize is not above its default of {MAX_TASKS:,}, sbatch refuses "
            f"more than so many: give --per-task {fewer} or more",
        )
    folder = plan.folder.resolve()
    return SCRIPT.format(
        title=" ".join(plan.title.split()),
        cases=len(cases),
        all_cases=len(plan.cases),
        tasks=len(parts),
        folder=shlex.quote(str(folder)),
        last=len(parts) - 1,
        cpus=cpus,
        logs=shlex.quote(str(folder / LOGS).replace("%", "%%")),  # sbatch replaces %A and such
        warn_s=WARN_S,
        terminated=InterruptedRunError.exit_code,
        indices=" ".join(parts),
        python=shlex.quote(sys.executable),
    )
