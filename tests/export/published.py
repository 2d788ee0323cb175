"""Published runs and a finished study, verified as those of a workflow are, made without a model."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamtune.files import write_json
from dreamtune.overview.members import REPORT, Members, write_members
from dreamtune.workflow.publish import publish
from tests.overview.studies import LATEST, STUDY, Studies
from versions import finish, freeze, specification

TIMES = {"started": "2026-11-28T09:50:00+00:00", "finished": "2026-11-28T09:51:00+00:00", "git": {"commit": "abc"}}
END = 1795859460.0  # `finished`, in seconds since 1970
COMPARISON = {"primary": "accuracy", "alpha": 0.05, "resamples": 200, "seed": 0}
LOG: list[dict[str, Any]] = [
    {"step": 0, "epoch": 0.0, "validation_nll": 4.0},
    {"step": 5, "epoch": 0.5, "loss": 2.0, "elbo": None, "lr": 1e-3, "wall_s": 3.0},
    {"step": 10, "epoch": 1.0, "loss": 1.0, "elbo": 1.5, "lr": 5e-4, "wall_s": 7.0},
    {"step": 10, "epoch": 1.0, "validation_nll": 1.25},
]


def publish_run(name: str, summary: Mapping[str, Any], seed: int = 0, **values: Any) -> dict[str, str]:
    """Publish a run whose report says `summary`, with `values` in place of its own; return its version folders."""
    train = {"seed": seed, "learning_rate": 1e-4, "lora": {"rank": 16}}
    full = specification("train_adapter", settings={"train": train, "run": "full", "name": name})
    folder = freeze(full)
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    finish(folder, full, **TIMES)
    report = specification("render_report", {"full": folder}, settings={"experiment": name, "comparison": COMPARISON})
    made = freeze(report)
    settings = {"full": {"train": train, "model": {"quantization": "nf4"}, "run": "full"}}
    write_json(made / "summary.json", summary | {"experiment": name, "settings": settings} | values)
    (made / "report.html").write_text("")
    finish(made, report, **TIMES)
    links = {"full": folder.as_posix(), REPORT: made.as_posix()}
    publish(LATEST / name / ".published-0123", links)
    return links


def publish_study(studies: Studies, **keys: Any) -> Members:
    """Publish all runs of a study, and finish its stage; `keys` are those of the configuration."""
    members = studies.make(compared=True, **keys)
    runs = [
        replace(run, folders=run.folders | publish_run(run.name, studies.summaries[place], run.seed))
        for place, run in enumerate(members.runs)
    ]
    spec = specification("study")
    folder = freeze(spec)
    for file in STUDY.glob("study.*"):
        shutil.copy(file, folder)
    finish(folder, spec, **TIMES)
    found = replace(members, runs=runs, study=Path(folder).as_posix())
    write_members(LATEST, found)
    return found
