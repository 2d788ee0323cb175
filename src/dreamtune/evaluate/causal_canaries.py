"""The hard canaries of a causal model's likelihood: those of `hard_canaries` turned round, as `canaries.backwards` are.

A prediction must depend neither on its target nor on what follows, and must depend on what came before.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dreamtune.canaries.backwards import CUTS
from dreamtune.evaluate.elbo import Job
from dreamtune.evaluate.hard_canaries import Witness, by_job
from dreamtune.evaluate.observation import Seen, owners, see


class CausalWitness(Witness):
    """The evidence of the hard canaries of a causal model, of which no token is hidden."""

    @property
    def mask_id(self) -> int | None:
        """None: nothing hides what is scored."""
        return None

    def examine(self, model: Any, jobs: list[Job], seen: Seen) -> dict[str, np.ndarray]:
        """Run a batch again with something replaced; return by check [2, B]: how many scores failed, of how many.

        CUTS + 1 forward passes, and those of `separating_sets`.
        """
        owner, place = owners(jobs), np.concatenate([np.array(job.masked) for job in jobs])  # [M]
        own, later = np.zeros((2, len(jobs))), np.zeros((2, len(jobs)))
        for share in np.linspace(0, 1, CUTS):
            cuts = np.array([round(share * (job.example.response - 1)) for job in jobs])  # [B]
            altered = [self._other_from(job, int(cut)) for job, cut in zip(jobs, cuts, strict=True)]
            differ = (seen.rows != see(model, altered, None).rows).any(dim=-1).cpu().numpy()  # [M]
            for found, chosen in ((own, place == cuts[owner]), (later, place < cuts[owner])):
                found += by_job(differ[chosen], owner[chosen], len(jobs))
        return {
            "targets_do_not_matter": own,
            "later_tokens_hidden": later,
            "attends_back": self._forgetful(model, seen, jobs),
            "documents_apart": self._apart(model, seen, jobs),
        }

    def _forgetful(self, model: Any, seen: Seen, jobs: list[Job]) -> np.ndarray:
        """Return for each job [2, B] whether its last row ignores all tokens before the last one that it may see."""
        judged = np.array([len(job.example.tokens) > 2 for job in jobs])
        altered = [
            self._with_tokens(job, np.arange(len(job.example.tokens)) < len(job.example.tokens) - 2) for job in jobs
        ]
        last = torch.from_numpy(np.cumsum([len(job.masked) for job in jobs]) - 1)  # [B]
        same = (seen.rows[last] == see(model, altered, None).rows[last]).all(dim=-1)
        return np.stack([same.cpu().numpy() & judged, judged]).astype(float)

    def _other_from(self, job: Job, cut: int) -> Job:
        """Return a job with other tokens from a place of its response on."""
        return self._with_tokens(job, np.arange(len(job.example.tokens)) >= job.example.prompt + cut)

    def _replaced(self, job: Job) -> Job:
        """Return a job of which every token is another one; all are still scored, as nothing is hidden."""
        return replace(super()._replaced(job), masked=job.masked)
