"""Settings of the estimate of the held-out negative log-likelihood."""

from dreamtune.settings.base import MANY, PARTS, SEED, Section, result, runtime


class LikelihoodConfig(Section):
    """Settings of the estimate of the held-out negative log-likelihood, which is in nats per response token."""

    draws: int = result(16, "random masks per example, the same ones for base and tuned", ge=1, le=100_000)
    max_rows: int | None = result(None, "use only this many test rows, the first ones; null uses all", ge=1, le=MANY)
    seed: int = result(0, "seed of the masks", **SEED)
    batch_tokens: int = result(
        8192,
        "most tokens of one forward pass; part of the version, because the last digits of a likelihood and what the "
        "canaries examine depend on which examples share a pass",
        ge=1,
        le=MANY,
    )
    scatter: int = runtime(
        1, "number of jobs that measure the test rows side by side, each a part of them", ge=1, le=PARTS
    )
