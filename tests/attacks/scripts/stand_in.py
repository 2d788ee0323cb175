"""Stands in for a stage's script: the real frozen config, verification, filing and manifest, and no model.

Its output is copied from `stand_ins/KIND/NAME`, where the version draws the kind, after a pause that the version draws,
too. So one version has one output, and different versions have different ones.
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
import shutil
import time
from pathlib import Path

from dreamtune.files import read_json, write_json
from dreamtune.workflow.stage import Stage

LONGEST_S = 0.3


def name_of(stage: Stage) -> str:
    """Return the folder of stand_ins/KIND that holds this stage's output."""
    settings, reads = stage.spec["settings"], stage.spec["reads"]
    if stage.name == "train_adapter":
        return str(settings["run"])
    if stage.name == "score_answers":
        tuned = "adapter" in read_json(Path(reads["answers"]) / "config.json")["reads"]
        return f"scores-{'tuned' if tuned else 'base'}"
    if stage.name == "generate_answers":
        return f"answers-{'tuned' if 'adapter' in reads else 'base'}"
    return stage.name


if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        stage.reads()
        number = int(stage.spec["version"], 16)
        kinds = sorted(Path("stand_ins").iterdir())
        source = kinds[number % len(kinds)] / name_of(stage)
        for path in sorted(source.iterdir()):
            time.sleep(LONGEST_S * (number % 101) / 101 / len(list(source.iterdir())))
            shutil.copyfile(path, stage.out / path.name)
        if stage.name == "render_report":
            summary = read_json(stage.out / "summary.json")
            write_json(stage.out / "summary.json", summary | {"experiment": stage.spec["settings"]["experiment"]})
        stage.counts = {"kind": number % len(kinds)}
