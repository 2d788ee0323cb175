"""Settings of the estimate of the held-out negative log-likelihood."""

from dreamtune.settings.base import Section, result, runtime


class LikelihoodConfig(Section):
    """Settings of the estimate of the held-out negative log-likelihood, which is in nats per response token."""

    draws: int = result(16, "random masks per example, the same ones for base and tuned", ge=1)
    max_rows: int | None = result(None, "use only this many test rows, the first ones; null uses all", ge=1)
    seed: int = result(0, "seed of the masks")
    batch_tokens: int = runtime(8192, "most tokens of one forward pass", ge=1)
    scatter: int = runtime(1, "number of jobs that measure the test rows side by side, each a part of them", ge=1)
