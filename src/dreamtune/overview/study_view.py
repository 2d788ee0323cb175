"""A study as the page shows it: sentences, table, pictures, and the pairs of runs on the page beside it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.files import read_json
from dreamtune.formats.study import CONFIRM_FILE, STUDY_FILE
from dreamtune.overview import curves, figures
from dreamtune.overview.cells import columns_of, table_rows, unbroken
from dreamtune.overview.drawing import Picture
from dreamtune.overview.members import Members
from dreamtune.overview.pareto import spots_of
from dreamtune.overview.side_by_side import PAGE, Pair, choose_pairs, compare_answers
from dreamtune.overview.states import state_of, stopped
from dreamtune.overview.table import Row, rows_of
from dreamtune.readable import points
from dreamtune.report.front import MOODS
from dreamtune.report.text import reveal

MOST_SENTENCES, MOST_GRIDS = 40, 8
SECTIONS = (  # anchor, what it shows, title
    ("said", "sentences", "What may be said"),
    ("gains", "gains", "Gains"),
    ("runs", "rows", "Runs"),
    ("cost", "cost", "Cost"),
    ("sizes", "sizes", "Size of the data"),
    ("grids", "grids", "The grid"),
    ("steps", "steps", "Training"),
    ("pairs", "pairs", "Answers side by side"),
)
BASES = (
    "The base model is asked as each run is: from left to right under model.attention: causal, else by filling in "
    "masks. A causal checkpoint never learned the latter, so a gain over it there says little; a causal and a "
    "diffusion method are compared by their own right answers."
)
STANDS = ("finished", "invalid", "ended", "failed", "unfinished", "not run")


class StudyView:
    """What the page shows of a study, read once.

    Attributes:
        members: the study as it was planned.
        states: how far each run has come.
        study: content of study.json; {} if the stage has not run.
        rows: of the table, the best run first.
        pairs: runs whose answers stand beside each other on the page `side_by_side.PAGE`.
    """

    def __init__(self, members: Members, latest: Path, refused: Mapping[str, str]) -> None:
        self.members, self.latest = members, latest
        self.states = [state_of(member, refused) for member in members.runs]
        self.study = _content(members.study, STUDY_FILE)
        self.rows = rows_of(members, self.states, self.study, latest)
        chosen = choose_pairs(members, self.states, self.ranked())
        self.pairs: list[Pair] = [compare_answers(*pair) for pair in chosen]

    def ranked(self) -> list[str]:
        """Return the methods of the family, then all others, the best first."""
        found = dict.fromkeys(row["method"] for row in self.rows)
        return [
            *(name for name in self.members.named if name in found),
            *(n for n in found if n not in self.members.named),
        ]

    def context(self) -> dict[str, Any]:
        """Return what the template shows."""
        primary = self.members.primary
        shown, more = columns_of(self.members, self.rows, bool(self.study))
        found = {
            "heading": self._heading(),
            "counts": self._counts(),
            "sentences": self._sentences(),
            "bases": self._bases(),
            "choice": self._choice(),
            "waits": self._waits(),
            "halved": self._halved(),
            "not_compared": self.study.get("not_compared", []),
            "columns": shown,
            "left_columns": more,
            "rows": table_rows(self.members, self.rows, shown),
            "order": "accuracy" if primary == "accuracy" else "NLL",
            "gains": self._forests(),
            "cost": figures.cost_picture(*spots_of(self.rows, primary), primary),
            "sizes": curves.size_pictures(self.study) if self.study else [],
            "left_sizes": max(0, len(self.study.get("curves") or {}) - curves.MOST_CURVES),
            "steps": [
                picture
                for picture in (
                    curves.loss_picture(self.states, self.ranked()),
                    curves.validation_picture(self.states, self.ranked(), self.study.get("steps")),
                )
                if picture
            ],
            "grids": list(self._grids()),
            "pairs": self.pairs,
            "pairs_page": PAGE,
            "comparisons": os.path.relpath(self.members.study, self.latest),
        }
        return found | {"sections": [(name, title) for name, key, title in SECTIONS if found[key]]}

    def _heading(self) -> str:
        methods = len({member.method for member in self.members.runs})
        return f"{_count(len(self.members.runs), 'run')} of {_count(methods, 'method')}"

    def _counts(self) -> str:
        stands = [state.stand for state in self.states]
        return ", ".join(f"{stands.count(stand)} {stand}" for stand in STANDS if stand in stands)

    def _sentences(self) -> list[dict[str, str]]:
        """Return the sentences of the family, with the mood of their word."""
        rows = [row for row in self.study.get("comparisons", []) if row["role"] == "confirmatory"]
        return [
            {"text": unbroken(reveal(row["sentence"], 500)), "mood": MOODS.get(row["word"], ""), "word": row["word"]}
            for row in rows[:MOST_SENTENCES]
        ]

    def _bases(self) -> str:
        """Return what to think of gains over bases that answer in different ways; "" if all answer in the same."""
        ways = {member.settings.get("model.attention") for member in self.members.runs}
        return BASES if len(ways) > 1 else ""

    def _choice(self) -> str:
        """Return who was chosen as the best and what may be said of it; "" where nothing was chosen."""
        if self.members.confirm:
            found = _content(self.members.confirm, CONFIRM_FILE)
            return f"{found['comparison']['sentence']} ({found['label']})." if found else ""
        best = self.study.get("choice")
        if not best or self.members.primary != "accuracy":
            return ""
        limits = f", {points(best['low'])} to {points(best['high'])}" if best["low"] is not None else ""
        return f"{best['winner']}: {points(best['gain'])} points{limits}; {best['label']}."

    def _waits(self) -> str:
        """Return why methods are not compared yet; "" if they are."""
        if self.study:
            return ""
        missing = [state for state in self.states if not state.summary and state.stand != "ended"]
        if not missing:
            return "The comparison of methods has not run yet."
        first = missing[0]
        return (
            f"Methods are compared once all runs are finished: {_count(len(missing), 'run')} "
            f"{'is' if len(missing) == 1 else 'are'} not, {first.member.name} first ({first.reason}). Those of which a "
            "job fails for good are left out by study.failed: leave_out. Until then the gains below are those of "
            "single adapters, and p is raw."
        )

    def _halved(self) -> str:
        """Return what to think of points that halving stopped; "" if it stopped none."""
        count = sum(bool(stopped(member)) for member in self.members.runs)
        return (
            f"Successive halving stopped {_count(count, 'run')} by the validation NLL: the table says when and why. "
            "A point that was stopped may have been the best in the end."
            if count
            else ""
        )

    def _forests(self) -> list[Picture]:
        primary, baseline = self.members.primary, self.members.baseline
        compared = self.study.get("comparisons") or list(_single(self.rows, primary))
        wanted = [("base", "gains-base", "Gain over the base model")]
        wanted += [(baseline, "gains-baseline", f"Gain over {baseline}, the baseline")] if baseline else []
        found = (
            figures.forest(name, title, [row for row in compared if row["against"] == against], primary)
            for against, name, title in wanted
        )
        return [picture for picture in found if picture]

    def _grids(self) -> Iterator[dict[str, Any]]:
        """Yield each grid's picture and what is said of its interactions."""
        for i, grid in enumerate((self.study.get("grids") or [])[:MOST_GRIDS], 1):
            found = [one for one in grid["interactions"] if one["p_adjusted"] < self.study["alpha"]]
            named = [f"{' and '.join(one['settings'])} (adjusted p = {one['p_adjusted']:.2g})" for one in found]
            said = f"Interactions: the effect of one depends on the other: {'; '.join(named)}." if named else ""
            if not said and grid["interactions"]:
                said = f"No interaction was found among {_count(len(grid['interactions']), 'pair')} of settings."
            left = f"{_count(grid['left_out'], 'invalid or ended run')} left out. " if grid["left_out"] else ""
            yield {
                "experiment": grid["experiment"],
                "picture": figures.effects_picture(i, grid, self.members.primary),
                "said": left + said,
                "refusal": grid["refusal"],
            }


def _single(rows: Sequence[Row], primary: str) -> Iterator[dict[str, Any]]:
    """Yield gains of single adapters from their own reports, for a study whose methods are not compared yet."""
    for row in rows:
        if row["stand"] == "finished" and primary == "accuracy" and row["gain"] is not None:
            nothing = dict.fromkeys(("simultaneous_low", "simultaneous_high", "p_adjusted"))
            yield nothing | {
                **{"method": row["run"], "against": "base", "role": "exploratory", "about": "adapters", "seeds": 1},
                **{"gain": row["gain"], "low": row["gain_low"], "high": row["gain_high"], "p": row["p"]},
                "word": "exploratory",
            }


def _content(folder: str, file: str) -> dict[str, Any]:
    """Return what a finished stage wrote; {} if it has not run."""
    if not (Path(folder) / "manifest.json").exists():
        return {}
    found: dict[str, Any] = read_json(Path(folder) / file)
    return found


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
