"""Bounds on the time and memory that a job requests from a batch system such as SLURM."""

from dreamtune.settings.base import Float, Section, runtime


class ClusterConfig(Section):
    """Bounds on what jobs request from a batch system; a profile's set-resources overrides them and every request."""

    max_minutes: int = runtime(1440, "longest time limit that a job requests, in minutes", ge=1, le=1_000_000)
    max_mem_gb: Float = runtime(
        128.0, "most host memory that a job requests, in GB of 1,024 MB", gt=0.0, le=1_000_000.0
    )
    margin: Float = runtime(
        1.5, "factor by which the full run's request exceeds the time and memory predicted from smoke", ge=1.0, le=100.0
    )
