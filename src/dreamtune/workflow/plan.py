"""The plan: which versions of which stages an experiment is made of. Torch-free: the Snakefile builds it."""

from pathlib import Path
from typing import Any

from dreamtune.digests import digest
from dreamtune.files import json_bytes, read_json, write_json
from dreamtune.inputs.identity import DIGESTS, FileDigests, identify
from dreamtune.settings.base import Section
from dreamtune.settings.cluster import ClusterConfig
from dreamtune.workflow.code import ROOT, code_digest
from dreamtune.workflow.parts import folder_of, parts_of

RESULTS = Path("results")
FORMAT = 1


class Plan(dict[tuple[str, str], dict[str, Any]]):
    """Maps (stage, version) to its frozen specification: settings, inputs, what it reads, its code's digest."""

    def __init__(self) -> None:
        super().__init__()
        self.digests = FileDigests(DIGESTS)
        self.cluster = ClusterConfig()
        self.codes: dict[str, str] = {}  # stage -> digest of its code, worked out once for all of its versions

    def under(self, cluster: ClusterConfig) -> "Plan":
        """Let what is added next travel with these bounds, which do not enter its version; return the plan."""
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
        """Plan one stage and return its version folder.

        `inputs` names what the stage reads from outside `results/` (see `inputs/identity.py`). `reads` and `order_only`
        map names to version folders; the versions of `reads` are hashed, those of `order_only` are not. `unhashed`
        sections travel to the job without entering the version. `names` are plain settings that belong to no section.
        """
        kinds = {name: section.by_kind() for name, section in sections.items()}
        reads, order_only = reads or {}, order_only or {}
        runtime = {name: values for name, (_, values) in kinds.items()}
        runtime |= {name: section.model_dump(mode="json") for name, section in (unhashed or {}).items()}
        hashed = {
            "stage": stage,
            "settings": {name: result for name, (result, _) in kinds.items()} | (names or {}),
            "inputs": identify(inputs, runtime, self.digests),
            "reads": {name: folder.name for name, folder in reads.items()},
            "code": self._code(stage),
        }
        version = digest(hashed)
        self[stage, version] = {"format": FORMAT, "version": version, **hashed} | {
            "reads": {name: folder.as_posix() for name, folder in reads.items()},
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
        """A job that was submitted before the config was edited keeps what it was submitted with."""
        spec: dict[str, Any] = read_json(RESULTS / key[0] / key[1] / "config.json")
        return spec

    def freeze(self) -> None:
        """Write each unfinished version's specification as its `config.json`: a job runs from that and nothing else."""
        for (stage, version), spec in self.items():
            folder = RESULTS / stage / version
            path = folder / "config.json"
            if (folder / "manifest.json").exists() or (path.exists() and path.read_bytes() == json_bytes(spec)):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, spec)

    def inputs_of(self, stage: str, version: str) -> dict[str, str]:
        """Return the manifests that a job waits for, by name."""
        spec = self[stage, version]
        return {name: f"{folder}/manifest.json" for name, folder in (spec["reads"] | spec["order_only"]).items()}

    def parts_of(self, stage: str, version: str) -> list[str]:
        """Return what says that a part is finished, of each part of a version that is scattered."""
        spec = self[stage, version]
        return [f"{RESULTS}/{stage}/{version}/{folder_of(spec, part)}/part.json" for part in parts_of(spec)]

    def unfinished(self, of: str) -> list[str]:
        """Return a stage's versions without a manifest. A finished version has no job: nothing can re-make it."""
        return [v for stage, v in self if stage == of and not (RESULTS / stage / v / "manifest.json").exists()]
