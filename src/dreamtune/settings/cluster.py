"""What a job may ask a batch system for."""

from dreamtune.settings.base import Float, Section, runtime


class ClusterConfig(Section):
    """Bounds on what jobs ask a batch system for; a profile's set-resources overrides them and every request."""

    max_minutes: int = runtime(1440, "longest time limit that a job asks for, in minutes", ge=1)
    max_mem_gb: Float = runtime(128.0, "most host memory that a job asks for, in GB of 1,024 MB", gt=0.0)
    margin: Float = runtime(1.5, "the full run asks for so many times what smoke measured", ge=1.0)
