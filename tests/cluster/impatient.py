"""Snakemake, whose SLURM executor asks every second how the jobs are: as a program, with snakemake's arguments.

The executor waits 10 s longer each time that no job has ended, which no setting changes: a job of 30 s then waits as
long again until its end is noticed. Nothing else is changed; the jobs on the nodes run `python -m snakemake`.
"""

import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

BETWEEN_S = 1

RemoteExecutor.next_seconds_between_status_checks = property(lambda _: BETWEEN_S, lambda _, longer: None)

if __name__ == "__main__":
    sys.exit(main())
