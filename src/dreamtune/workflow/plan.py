"""The plan: the versions of all stages that the experiments need. Torch-free, because the Snakefile makes it.

A version is the digest of everything that can change a stage's output: settings, inputs, code, and the versions that it
reads. Its folder is results/STAGE/VERSION.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from dreamtune.files import json_bytes, write_json
from dreamtune.inputs.identity import DIGESTS, FileDigests, identify
from dreamtune.settings.base import Section
from dreamtune.settings.cluster import ClusterConfig
from dreamtune.workflow.code import ROOT, code_digest
from dreamtune.workflow.disk import one_line
from dreamtune.workflow.parts import folder_of, parts_of
from dreamtune.workflow.scratch import clear_finished
from dreamtune.workflow.verification import FAILURE, read_frozen, sealed, still_read, version_of

RESULTS = Path("results")
FORMAT = 1


class Plan(dict[tuple[str, str], dict[str, Any]]):
    """Maps (stage, version) to the version's specification: settings, inputs, folders it reads, digest of its code."""

    def __init__(self) -> None:
        super().__init__()
        self.digests = FileDigests(DIGESTS)
        self.cluster = ClusterConfig()
        self.codes: dict[str, str] = {}  # stage -> digest of its code, worked out once for all of its versions

    def under(self, cluster: ClusterConfig) -> "Plan":
        """Give the versions added from now on these bounds, which are not hashed into them; return the plan itself."""
        self.cluster = cluster
        return self

    def add(
        self,
        stage: str,
        sections: dict[str, Section],
        inputs: tuple[str, ...] = (),
        reads: dict[str, Path] | None = None,
        order_only: dict[str, Path] | None = None,
        unhashed: dict[str, Section] | None = None,
        names: dict[str, Any] | None = None,
    ) -> Path:
        """Add one version of a stage; return its folder.

        Args:
            stage: name of the stage, of its rule and of its script.
            sections: the configuration's sections for the job; their result fields are hashed into the version.
            inputs: names of the inputs from outside `results/`, as for `inputs.identity.identify`.
            reads: version folders that the job reads, by name; these versions are hashed.
            order_only: version folders that must be finished before the job, by name; they are not hashed.
            unhashed: sections for the job of which no field is hashed.
            names: further settings, which belong to no section; they are hashed.

        Raises:
            UserError: an input is missing or not pinned.
        """
        kinds = {name: section.by_kind() for name, section in sections.items()}
        reads, order_only = reads or {}, order_only or {}
        runtime = {name: values for name, (_, values) in kinds.items()}
        runtime |= {name: section.model_dump(mode="json") for name, section in (unhashed or {}).items()}
        hashed = {
            "stage": stage,
            "settings": {name: result for name, (result, _) in kinds.items()} | (names or {}),
            "inputs": identify(inputs, runtime, self.digests),
            "reads": {name: folder.as_posix() for name, folder in reads.items()},
            "code": self._code(stage),
        }
        version = version_of(hashed)
        self[stage, version] = {"format": FORMAT, "version": version, **hashed} | {
            "order_only": {name: folder.as_posix() for name, folder in order_only.items()},
            "runtime": runtime,
            "cluster": self.cluster.model_dump(mode="json"),
        }
        return RESULTS / stage / version

    def _code(self, stage: str) -> str:
        if stage not in self.codes:
            self.codes[stage] = code_digest(ROOT / "workflow" / "scripts" / f"{stage}.py")
        return self.codes[stage]

    def __missing__(self, key: tuple[str, str]) -> dict[str, Any]:
        """Return the frozen specification of an unplanned version, whose job was submitted under an earlier plan.

        Raises:
            UserError: there is none, or it was changed.
        """
        return read_frozen(RESULTS / key[0] / key[1])

    def freeze(self) -> None:
        """Write the specification of each unfinished version to its `config.json`, from which alone a job runs.

        The failure that an earlier call noted is forgotten, since the job is tried again. Of a finished version, what a
        killed job left beside its output is deleted.

        Raises:
            UserError: the results cannot be written to, or their disk is full.
        """
        for (stage, version), spec in self.items():
            folder = RESULTS / stage / version
            path, record = folder / "config.json", sealed(spec)
            (folder / FAILURE).unlink(missing_ok=True)
            if (folder / "manifest.json").exists():
                clear_finished(folder)
                continue
            if path.exists() and path.read_bytes() == json_bytes(record):
                continue
            with one_line(folder):
                folder.mkdir(parents=True, exist_ok=True)
                write_json(path, record)

    def inputs_of(self, stage: str, version: str) -> dict[str, str]:
        """Return the manifests of the versions that a job reads or waits for, by name; none of runs that were stopped.

        Raises:
            Undecided: it is not decided yet which runs are stopped.
        """
        spec = self[stage, version]
        reads = still_read(spec["reads"]) | spec["order_only"]
        return {name: f"{folder}/manifest.json" for name, folder in reads.items()}

    def parts_of(self, stage: str, version: str) -> list[str]:
        """Return the part.json of each part of a version; [] if the version is made by one job."""
        spec = self[stage, version]
        return [f"{RESULTS}/{stage}/{version}/{folder_of(spec, part)}/part.json" for part in parts_of(spec)]

    def unfinished(self, of: str) -> list[str]:
        """Return the versions of the stage `of` that have no manifest."""
        return [v for stage, v in self if stage == of and not (RESULTS / stage / v / "manifest.json").exists()]

    def todo(self, stages: Collection[str]) -> list[dict[str, Any]]:
        """Return the specifications of the unfinished versions of these stages."""
        return [self[stage, version] for stage in stages for version in self.unfinished(stage)]
