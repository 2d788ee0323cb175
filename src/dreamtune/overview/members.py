"""What a study is planned to consist of: its runs, what differs between them, and the versions that each will have.

The driver writes it to results/latest/members.json before the first job, so that the page can also show runs that
failed or have not begun.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamtune.config import Config
from dreamtune.files import read_json, write_json
from dreamtune.study.ended import Ended
from dreamtune.study.expand import SIZED
from dreamtune.study.points import named_methods

MEMBERS_FILE = "members.json"
FORMAT = 1
# Sections that change no result, or only how it is shown; and settings that have a column of their own.
UNSHOWN = ("report", "cluster", "merge")
OWN_COLUMNS = ("train.seed",)
FOLDERS = (
    "shards",
    "references",
    "smoke",
    "rung-",
    "full",
    "likelihood",
    "answers/test/greedy/",
    "scores/test/greedy/",
)
REPORT = "report"


@dataclass(frozen=True)
class Member:
    """One run of a study.

    Attributes:
        name, method, experiment, seed: see `study.points.Point`.
        data_size: training rows by the study's data sizes; None for all.
        settings: values of the settings that differ between runs, by dotted name; None where one has no meaning.
        folders: version folders by name, in the order in which they are made; the last one is the report's. Those of
            an ended run are finished, and there is no report.
        ended: what ended it without a report and why, in one line; "" if nothing did.
        decided: version folders of halve that decide whether it goes on, in their order.
    """

    name: str
    method: str
    experiment: str
    seed: int
    data_size: int | None
    settings: dict[str, Any]
    folders: dict[str, str]
    ended: str = ""
    decided: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Members:
    """All runs of a study.

    Attributes:
        runs: in the order of the configuration.
        settings: dotted names of the settings that differ, those of grids first.
        named: methods of the family, and the baseline (None for none).
        primary: "accuracy" or "nll".
        study, confirm: version folders of these stages; confirm is None where nothing is chosen on validation answers.
    """

    runs: list[Member]
    settings: list[str]
    named: list[str]
    baseline: str | None
    primary: str
    study: str
    confirm: str | None = None


def members_of(
    config: Config,
    latest: Mapping[str, Mapping[str, Path]],
    stages: Iterable[Path],
    ended: Iterable[Ended] = (),
    decided: Mapping[str, Sequence[Path]] | None = None,
) -> Members:
    """Return the runs of a configuration that is a study.

    Args:
        config: the configuration, a study.
        latest: version folders of each run, from `workflow.experiments.make_plan`.
        stages: version folders of `study` and, if there is one, of `confirm`, from `plan_study`.
        ended: the runs that ended without a report.
        decided: by run, the version folders of halve that decide whether it goes on.
    """
    flat = {name: flatten(_sections(e.model_dump(mode="json"))) for name, e in config.experiments.items()}
    grids = dict.fromkeys(field for point in config.points.values() for field in point.coordinates)
    sized = any(point.data_size for point in config.points.values())
    settings = differing(flat, list(grids), [*OWN_COLUMNS, *(SIZED if sized else ())])
    gone = {one.name: one.said for one in ended}
    study, *confirm = (folder.as_posix() for folder in stages)
    return Members(
        [
            Member(
                *(name, point.method, point.experiment, point.seed, point.data_size),
                {setting: flat[name].get(setting) for setting in settings},
                {key: path.as_posix() for key, path in latest[name].items() if key.startswith((*FOLDERS, REPORT))},
                gone.get(name, ""),
                [path.as_posix() for path in (decided or {}).get(name, [])],
            )
            for name, point in config.points.items()
        ],
        settings,
        named_methods(config.study, list(config.points.values())),
        config.study.baseline,
        config.study.primary or next(iter(config.experiments.values())).comparison.primary,
        study,
        *confirm,
    )


def write_members(latest: Path, members: Members) -> None:
    """Write `latest`/members.json, if it would change."""
    content = {"format": FORMAT} | asdict(members)
    path = latest / MEMBERS_FILE
    try:
        same = read_json(path) == json.loads(json.dumps(content))
    except (OSError, ValueError):
        same = False
    if not same:
        latest.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def read_members(latest: Path) -> Members | None:
    """Return the study that was planned last; None if there is none, or it was written by another release."""
    try:
        content = read_json(latest / MEMBERS_FILE)
        if content.pop("format") != FORMAT:
            return None
        return Members(**content | {"runs": [Member(**run) for run in content["runs"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differing(
    flat: Mapping[str, Mapping[str, Any]], first: Iterable[str] = (), without: Iterable[str] = ()
) -> list[str]:
    """Return the settings that do not have the same value in all runs: those of grids first, then those of `train`.

    >>> differing({"a": {"rank": 4, "rate": 1}, "b": {"rate": 2, "rank": 8}, "c": {"rank": 8, "rate": 2}}, ["rate"])
    ['rate', 'rank']

    Args:
        flat: by run, its settings by dotted name; one that is absent in a run has no meaning there.
        first: settings of grids; one may be a section, such as train.lora.
        without: settings to leave out.
    """
    names = dict.fromkeys(name for settings in flat.values() for name in settings)
    found = [
        name
        for name in names
        if name not in without and len({json.dumps(own[name]) for own in flat.values() if name in own}) > 1
    ]
    places = list(first)

    def place(name: str) -> tuple[int, bool]:
        grid = next((i for i, setting in enumerate(places) if _under(name, setting)), len(places))
        return grid, not name.startswith("train.")

    return sorted(found, key=place)


def flatten(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name; lists stay lists.

    >>> flatten({"train": {"lora": {"rank": 4}, "betas": [0.9, 0.95]}})
    {'train.lora.rank': 4, 'train.betas': [0.9, 0.95]}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _under(name: str, setting: str) -> bool:
    return name == setting or name.startswith(f"{setting}.")


def _sections(experiment: dict[str, Any]) -> dict[str, Any]:
    """Return the sections that decide a result, without the adapter's settings where all weights are trained."""
    kept = {name: section for name, section in experiment.items() if name not in UNSHOWN}
    if kept["train"].get("finetuning") == "full":
        kept["train"] = {name: value for name, value in kept["train"].items() if name != "lora"}
    return kept
