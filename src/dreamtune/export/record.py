"""A finished run, or a study, as experiment trackers know one: settings, curves, final figures, tags and files.

It is read from published versions, each verified first, and knows no tracker. Its identity is that of the report, or of
the stage `study`: what it holds follows from that version, so the same version is never exported twice.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.files import finite, read_json
from dreamtune.formats.reads import Reads
from dreamtune.formats.study import CONFIRM_FILE, CSV_FILE, STUDY_FILE, TABLE_FILE
from dreamtune.formats.training import LOG_FILE
from dreamtune.overview.members import MEMBERS_FILE, REPORT, Member, Members, flatten, read_members
from dreamtune.overview.states import FORMAT
from dreamtune.overview.table import measured
from dreamtune.study.fields import hint
from dreamtune.workflow.publish import report_of
from dreamtune.workflow.verification import read_manifest, verify

STUDY = "study"
FINAL, INVALID = "final/", "invalid/"  # before the name of a figure; the second where a hard canary failed
SUMMARY_FILE = "summary.json"
CONFIGURED = ("shards", "full", "likelihood", "answers/test/greedy/tuned", "scores/test/greedy/tuned")
SECTIONS = {name: name for name in ("data", "model", "train", "generate", "score")}  # as stages and users call them
SECTIONS |= {"likelihood": "evaluate.likelihood", "comparison": "evaluate.comparison"}
UNSHOWN = ("training_s", "total_s", "host")  # of the recipe: figures, and the name of a machine
PRINTED = ("gain", "low", "high", "simultaneous_low", "simultaneous_high", "p", "p_adjusted")


@dataclass(frozen=True)
class Point:
    """A value of a curve.

    Attributes:
        name: as in train_log.jsonl, such as loss.
        step: optimiser steps so far.
        value: see docs/glossary.md.
        at: seconds since 1970.
    """

    name: str
    step: int
    value: float
    at: float


@dataclass(frozen=True)
class Record:
    """What a tracker gets to know of a run, or of a study.

    Attributes:
        name: of the run; "study" for a study.
        version: of its report, or of the stage `study`.
        kind: "run" or "study".
        group: the run's method, which its seeds share; "study" for a study.
        verdict, sentence: what the report says first; of a study its rule.
        tags: further texts by name: method, seed, paths of report and training, commit.
        settings: by dotted name, as in the configuration; `recipe.` before what the report says of the training.
        curve: of training, by step.
        figures: final numbers by name, such as final/accuracy, final/accuracy_low, final/accuracy_high.
        files: to be attached.
        started, finished: seconds since 1970, of the training or of the stage `study`.
    """

    name: str
    version: str
    kind: str
    group: str
    verdict: str
    sentence: str
    tags: dict[str, str]
    settings: dict[str, Any]
    curve: list[Point]
    figures: dict[str, float]
    files: list[Path]
    started: float
    finished: float

    @property
    def id(self) -> str:
        """The name in ASCII, and the version: what trackers and folders may be called."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.name)}-{self.version}"


def read_records(latest: Path, names: Sequence[str]) -> Iterator[Record]:
    """Yield the published runs of these names; without names all, and the study if its stage has finished.

    Args:
        latest: results/latest.
        names: of runs.

    Raises:
        UserError: a run is not published, or a file is not what its version's manifest says.
    """
    published = {link.parent.name: link.parent for link in sorted(latest.glob(f"*/{REPORT}")) if link.is_symlink()}
    if not published:
        raise UserError(f"{latest} holds no published run; run snakemake first")
    for name in names:
        if name not in published:
            raise UserError(f"{latest} holds no published run {name!r}; {hint(name, published)}")
    members = read_members(latest)
    for name in names or published:
        yield read_run(published[name], members)
    if not names and members and (Path(members.study) / "manifest.json").exists():
        yield read_study(latest, members)


def read_run(published: Path, members: Members | None) -> Record:
    """Return a published run.

    Args:
        published: results/latest/RUN.
        members: the study that was planned last; None if there is none.
    """
    report = report_of(published)
    made, summary = read_manifest(report), read_json(report / SUMMARY_FILE)
    if summary.get("format") != FORMAT:
        raise UserError(f"{report / SUMMARY_FILE} has format {summary.get('format')}, not {FORMAT}; make it anew")
    full = report.parents[1] / Path(made["reads"]["full"]).parent.name / Path(made["reads"]["full"]).name
    training = verify(full, LOG_FILE)
    settings = settings_of(summary, made["settings"])
    member = _member(published.name, report, members)
    tags = {
        "method": member.method if member else published.name,
        "experiment": member.experiment if member else published.name,
        "seed": str(settings.get("train.seed")),
        "data_size": str((member.data_size if member else None) or "all"),
        "primary": summary["primary"],
        "report": (report / "report.html").as_posix(),
        "training": full.as_posix(),
        "commit": (training.get("git") or {}).get("commit") or "unknown",
    }
    return Record(
        *(published.name, report.name, "run", tags["method"], summary["verdict"], summary["sentence"], tags, settings),
        curve_of(Reads({"full": full}).json_lines("full", LOG_FILE), _seconds(training["finished"])),
        figures_of(summary),
        [report / SUMMARY_FILE],
        _seconds(training["started"]),
        _seconds(training["finished"]),
    )


def read_study(latest: Path, members: Members) -> Record:
    """Return a study whose stage has finished, with the stage `confirm` where there is one."""
    folder = Path(members.study)
    made, study = verify(folder), read_json(folder / STUDY_FILE)
    files = [latest / MEMBERS_FILE, *(folder / name for name in (STUDY_FILE, CSV_FILE, TABLE_FILE))]
    tags = {"report": (latest / "index.html").as_posix(), "primary": study["primary"]}
    confirm = Path(members.confirm) if members.confirm else None
    if confirm and (confirm / "manifest.json").exists():
        verify(confirm)
        files.append(confirm / CONFIRM_FILE)
    tags |= {row["comparison"]: row["sentence"] for row in study["comparisons"] if row["role"] == "confirmatory"}
    figures = compared(study["comparisons"])
    settings = {name: study[name] for name in ("primary", "alpha", "baseline", "margin", "family")}
    times = _seconds(made["started"]), _seconds(made["finished"])
    verdict = "; ".join(sorted({row["word"] for row in study["comparisons"] if row["role"] == "confirmatory"}))
    return Record(STUDY, folder.name, STUDY, STUDY, verdict, study["rule"], tags, settings, [], figures, files, *times)


def compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of a study's comparisons, marked where one of the runs is invalid, as `figures_of` does.

    >>> rows = [{"comparison": "a against b", "gain": 0.25, "p": 0.01, "test": "t"}]
    >>> compared([*rows, {"comparison": "copy against b", "gain": -1.0, "p": None, "test": "invalid: copy: leaks"}])
    {'a against b/gain': 0.25, 'a against b/p': 0.01, 'invalid/copy against b/gain': -1.0}
    """
    return {
        f"{INVALID if row['test'].startswith('invalid') else ''}{row['comparison']}/{name}": float(row[name])
        for row in rows
        for name in PRINTED
        if row.get(name) is not None
    }


def settings_of(summary: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decided a run's result, by dotted name, and its recipe.

    Args:
        summary: content of summary.json.
        report: settings of the report's version.
    """
    found: dict[str, Any] = {}
    for own in (*(summary["settings"].get(name, {}) for name in CONFIGURED), report):
        for section, before in SECTIONS.items():
            found |= flatten(own.get(section) or {}, f"{before}.")
    recipe = {name: value for name, value in summary["recipe"].items() if name not in UNSHOWN}
    return found | flatten(recipe, "recipe.")


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return a run's final figures: those of the study's table by the same names, and its other readings.

    Where the verdict is `invalid` their names begin otherwise, so that no tracker sorts them among those of valid runs.
    """
    training, nll = summary["training"], summary["nll"]
    found = measured(summary) | {name: training.get(name) for name in ("first_loss", "last_loss")}
    found |= _estimates("nll_", {"delta": nll.get("delta")})
    found |= {"minimum_detectable_effect": summary["minimum_detectable_effect"]["primary"]}
    blocks = {name: summary[name] for name in ("strict", "lenient")}
    blocks |= {name: block["accuracy"] for name, block in summary["comparisons"].items() if name != "test/greedy"}
    if summary["few_shot"]:
        blocks["few_shot"] = summary["few_shot"]["accuracy"]
    for name, block in blocks.items():
        found |= _estimates(f"{name}/", block)
    before = INVALID if summary["verdict"] == "invalid" else FINAL
    return {f"{before}{name}": float(value) for name, value in found.items() if _is_number(value)}


def curve_of(log: Sequence[Mapping[str, Any]], finished: float) -> list[Point]:
    """Return the curves of a training.

    The log counts the seconds of steps only. Their times are counted back from the end, so pauses for validation and
    checkpoints, and between the attempts of a training that was stopped, are left out.

    >>> log = [{"step": 0, "nll": 4.0}, {"step": 5, "loss": 2.0, "wall_s": 3.0}, {"step": 9, "lr": 0.0, "wall_s": 7.0}]
    >>> [(point.name, point.step, point.value, point.at) for point in curve_of(log, finished=100.0)]
    [('nll', 0, 4.0, 93.0), ('loss', 5, 2.0, 96.0), ('lr', 9, 0.0, 100.0)]

    Args:
        log: lines of train_log.jsonl.
        finished: seconds since 1970 at which the training ended.
    """
    total = max((line["wall_s"] for line in log if line.get("wall_s") is not None), default=0.0)
    points, worked = [], 0.0
    for line in log:
        worked = line.get("wall_s") or worked
        values = {name: value for name, value in line.items() if name not in ("step", "wall_s") and _is_number(value)}
        points += [Point(name, line["step"], float(value), finished - total + worked) for name, value in values.items()]
    return points


def _estimates(before: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return value, limits and p of the estimates in a block of summary.json."""
    found: dict[str, Any] = {}
    for name in ("base", "tuned", "gain", "delta"):
        estimate = finite(block.get(name) or {})
        found[f"{before}{name}"] = estimate.get("value")
        found |= {f"{before}{name}_{part}": estimate.get(part) for part in ("low", "high", "p")}
    return found


def _member(name: str, report: Path, members: Members | None) -> Member | None:
    """Return the run's place in the study; None if it was published by another configuration."""
    found = [run for run in members.runs if run.name == name] if members else []
    return found[0] if found and Path(found[0].folders[REPORT]).name == report.name else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()
