"""Studies without a model: folders of a few runs, shared by all runs of a study, through the stages' own functions."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.config import Config, parse_config
from dreamtune.formats.reads import Reads
from dreamtune.overview.members import Members, members_of, write_members
from dreamtune.report.summary import build_summary
from dreamtune.settings.report import Comparison
from dreamtune.study.ended import Ended
from dreamtune.study.results import run_study
from report_fixture import write_reads

LEAST: dict[str, Any] = {"model": {"path": "model", "device": "cuda"}, "data": {"files": ["rows.parquet"]}}
SHARES = (0.3, 0.4, 0.46, 0.52, 0.58, 0.66, 0.74)  # right answers of 100; the base has 0.12
COMPARISON = Comparison(resamples=200)
STUDY = Path("results/study/0123456789ab")
LATEST = Path("results/latest")


class Studies:
    """Makes studies in the present folder; what was measured is made once for each of `shares`."""

    def __init__(self, root: Path, shares: Sequence[float] = SHARES) -> None:
        self.root = root
        self.kinds = [write_reads(root / f"kind{i}", base=0.12, tuned=share) for i, share in enumerate(shares)]
        self.summaries = [build_summary(Reads(kind), COMPARISON, "a run") for kind in self.kinds]

    def make(
        self,
        kinds: Mapping[str, int] | None = None,
        compared: bool = True,
        ended: Sequence[Ended] = (),
        **keys: Any,
    ) -> Members:
        """Write all runs of a configuration and members.json; return the study.

        Args:
            kinds: by a run's name, place in `shares` of what it measured; others take turns.
            compared: whether the stage `study` runs.
            ended: runs that ended without a report.
            keys: of the configuration, beside LEAST.
        """
        config: Config = parse_config(LEAST | keys)
        latest = {
            name: self._run(name, place, (kinds or {}).get(name, place % len(self.kinds)), point.data_size or 500)
            for place, (name, point) in enumerate(config.points.items())
        }
        for one in ended:
            latest[one.name] = {key: latest[one.name][key] for key in ("shards", "smoke")}
        if compared:
            STUDY.mkdir(parents=True)
            reads = {
                f"{name}/{key}": path for name, own in latest.items() for key, path in own.items() if key != "report"
            }
            run_study(config.study, COMPARISON, list(config.points.values()), reads, STUDY, ended)
            (STUDY / "manifest.json").write_text("{}")
        members = members_of(config, latest, [STUDY], ended)
        write_members(LATEST, members)
        return members

    def _run(self, name: str, place: int, kind: int, rows: int) -> dict[str, Path]:
        folders = dict(self.kinds[kind])
        full, report = Path(f"results/train_adapter/{name}"), Path(f"results/render_report/{name}")
        shutil.copytree(folders["full"], full)
        report.mkdir(parents=True)
        minutes = 4 + 3 * (place % 11) + kind
        log = [
            {"step": step, "loss": (3 - kind / 5) * math.exp(-step / 60) + 0.5 + 0.1 * math.sin(step * (place + 1))}
            for step in range(5, 376, 5)
        ]
        training = json.loads((full / "training.json").read_text()) | {"rows": rows}
        (full / "training.json").write_text(json.dumps(training))
        (full / "train_log.jsonl").write_text("\n".join(map(json.dumps, log)))
        summary = json.loads(json.dumps(self.summaries[kind])) | {"experiment": name}
        summary["recipe"] |= {"device": "cuda", "training_s": 60.0 * minutes}
        summary["training"] |= {"peak_memory_gib": 10 + place % 13, "seconds_per_step": minutes / 60}
        (report / "summary.json").write_text(json.dumps(summary))
        for folder in (full, report):
            (folder / "manifest.json").write_text("{}")
        return folders | {"full": full, "report": report}
