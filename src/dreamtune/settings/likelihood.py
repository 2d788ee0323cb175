"""The estimate of the held-out negative log-likelihood."""

from dreamtune.settings.base import Section, result, runtime


class LikelihoodConfig(Section):
    """The estimate of the held-out negative log-likelihood, in nats per response token."""

    draws: int = result(16, "mask draws per example, identical for base and tuned", ge=1)
    max_rows: int | None = result(None, "use only the first so many test rows; null uses all", ge=1)
    seed: int = result(0, "seed of the masks")
    batch_tokens: int = runtime(8192, "tokens of one forward pass", ge=1)
    scatter: int = runtime(1, "jobs that share the forward passes of one version", ge=1)
