"""The place decides what an edit makes anew: one real edit for each kind of file, and the versions that change."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import FIXTURES, ROOT
from dreamtune.config import load_config
from dreamtune.workflow import code, plan
from dreamtune.workflow.experiments import make_plan, plan_merge, plan_study

STUDY = {"study", "confirm"}
EVERY = {"prepare", "references", "train", "generate", "likelihood", "score", "audit", "report", "merge"} | STUDY
MODEL = {"train", "generate", "likelihood", "merge"}
# What an edit of a file changes the code of; whatever reads the result of that is made anew, too.
EDITS = {
    # workflow/, device/, and what only prints or stops: nothing
    "workflow/scratch.py": set(),
    "workflow/stage.py": set(),
    "workflow/launch.py": set(),
    "workflow/prune.py": set(),
    "device/memory.py": set(),
    "device/gpus.py": set(),
    "device/caches.py": set(),
    "device/phases.py": set(),
    "device/deferred.py": set(),
    "device/compiled_code.py": set(),
    "errors.py": set(),
    "interruption.py": set(),
    "prediction.py": set(),
    "progress.py": set(),
    "writers.py": set(),
    "smoke/words.py": set(),  # the paragraph for a person, which training.json keeps as it was said
    # what no stage reaches: nothing
    "config.py": set(),
    "inputs/download.py": set(),
    "inputs/model_check.py": set(),
    "inputs/identity.py": set(),
    "workflow/publish.py": set(),
    "generate/ask.py": set(),
    "settings/cluster.py": set(),
    "settings/runs.py": set(),
    "study/expand.py": set(),
    "study/decisions.py": set(),
    "rungs/plan.py": set(),
    "overview/study_view.py": set(),
    "overview/index.html.j2": set(),
    "formats/study_schema.py": set(),
    "export/record.py": set(),
    "forecast/cost.py": set(),
    # every other wing: what reaches it
    "settings/base.py": EVERY,
    "settings/score.py": {"references", "score"},
    "settings/report.py": {"report"} | STUDY,
    "settings/study.py": STUDY,
    "settings/merge.py": {"merge"},
    "inputs/parquet_rows.py": {"prepare", "generate", "audit"},
    "inputs/checkpoint_format.py": MODEL | {"report"},  # the card's loading code
    "inputs/shapes.py": MODEL,
    "inputs/base_card.py": {"report"},
    "inputs/special_tokens.py": MODEL | {"prepare", "audit"},
    "inputs/text_rows.py": {"prepare", "generate", "audit"},
    "smoke/range_test.py": {"train"},
    "contamination/ngrams.py": {"prepare", "audit"},
    "contamination/copies.py": {"prepare", "audit"},
    "contamination/templates.py": {"prepare", "generate", "audit"},
    "formats/questions.py": {"prepare", "audit", "report"},
    "chat/conversations.py": {"prepare"},
    "chat/messages.py": {"prepare", "generate"},
    "chat/template.py": {"prepare", "generate"},  # prompts of benchmarks, and the user's own
    "data/encode_turns.py": {"prepare"},
    "data/truncation.py": {"prepare"},
    "data/template.py": {"prepare", "generate", "report"},  # prompts in the files for lm-evaluation-harness
    "canvas.py": {"prepare", "report"},
    "workflow/canvases.py": set(),
    "workflow/models.py": set(),
    "model/logits.py": MODEL,
    "model/official_writer.py": {"train", "merge"},
    "model/rounding.py": {"generate", "merge"},
    "objective/diffusion.py": {"train", "likelihood"},  # whose canaries, like those of training, corrupt documents
    "canaries/window.py": {"train"},
    "train/gate.py": {"train"},
    "formats/halving.py": {"train"} | STUDY,
    "train/documents.py": {"train", "likelihood"},  # which measures responses with the tails of training, too
    "generate/sampler.py": {"generate"},
    "generate/few_shot.py": {"generate"},
    "settings/few_shot.py": {"generate"},
    "scoring/equivalence.py": {"references", "score"},
    "scoring/limits.py": {"references", "score"},
    "scoring/references.py": {"references", "score"},
    "evaluate/likelihood.py": {"likelihood"},
    "evaluate/elbo.py": {"likelihood", "merge"},
    "evaluate/intervals.py": {"likelihood", "report"} | STUDY,
    "evaluate/clusters.py": {"likelihood", "report"} | STUDY,
    "evaluate/power.py": {"report"} | STUDY,
    "evaluate/verdict.py": {"report"},
    "evaluate/few_shot.py": {"report"},
    "evaluate/claims.py": {"report"},
    "report/charts.py": {"report"},
    "report/template.html.j2": {"report"},
    "report/card.md.j2": {"report"},
    "report/harness.py": {"report"},
    "noise.py": MODEL | {"prepare"},  # which rows a weight draws
    "sources/choice.py": {"prepare"},
    "sources/chosen_rows.py": {"train"},
    "sources/where.py": {"prepare"},
    "report/sources.py": {"report"},
    "formats/reads.py": {"report"} | STUDY,
    "formats/study.py": STUDY,
    "study/points.py": STUDY,
    "study/measured.py": STUDY,
    "study/effects.py": STUDY,
    "study/family.py": STUDY,
    "study/wording.py": STUDY,
    "study/choosing.py": STUDY,  # the best of all on test, or the one that validation chose
    "study/results.py": {"study"},
    "study/curves.py": {"study"},
    "study/steps.py": {"study"},
    "study/grid_effects.py": {"study"},
    "study/confirmation.py": {"confirm"},
    "study/ended.py": STUDY,
    "study/halving.py": set(),  # which only halve asks
    "endings/plan.py": set(),
    "endings/runs.py": set(),
    "merge.py": {"merge"},
}
STAGES = {
    "prepare": "prepare_shards",
    "references": "audit_references",
    "train": "train_adapter",
    "generate": "generate_answers",
    "likelihood": "evaluate_likelihood",
    "score": "score_answers",
    "audit": "audit_contamination",
    "report": "render_report",
    "merge": "merge_adapter",
    "study": "study",
    "confirm": "confirm",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that can be edited."""
    folder = tmp_path_factory.mktemp("tree")
    for part in ("src", "workflow", "resources"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    benchmark = "{name: others, files: [resources/tiny-dream/rows.parquet], question: question, answer: solution}"
    micro = (FIXTURES / "micro.yaml").read_text().replace("evaluate:\n", f"evaluate:\n  benchmarks: [{benchmark}]\n")
    micro = micro.replace("max_prompts: 8", "max_prompts: 200")  # no fewer may choose
    (folder / "micro.yaml").write_text(f"{micro}study: {{choose: validation}}\n")
    return folder


@pytest.fixture(scope="module")
def planned(tree: Path) -> Iterator[Callable[[], plan.Plan]]:
    """Return a function that plans the smallest configuration from the copy as it lies there."""

    def make() -> plan.Plan:
        config = load_config(Path("micro.yaml"))
        made, latest = make_plan(config)
        plan_merge(made, config, latest)
        plan_study(made, config, latest)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)
        patch.setattr(code, "SRC", tree / "src")
        patch.setattr(plan, "ROOT", tree)
        yield make


@pytest.fixture(scope="module")
def before(planned: Callable[[], plan.Plan]) -> plan.Plan:
    """The plan of the copy without an edit; the last test sees that each edit was taken back."""
    return planned()


@pytest.mark.parametrize(("file", "stages"), EDITS.items(), ids=EDITS)
def test_what_an_edit_makes_anew(
    tree: Path, planned: Callable[[], plan.Plan], before: plan.Plan, file: str, stages: set[str]
) -> None:
    edited, text = tree / "src/dreamtune" / file, (tree / "src/dreamtune" / file).read_text()
    times = edited.stat().st_atime_ns, edited.stat().st_mtime_ns
    edited.write_text(text + "\nEDITED = True\n")
    try:
        after = planned()
    finally:
        edited.write_text(text)
        os.utime(edited, ns=times)  # a file with another time would be parsed again
    codes = {stage: spec["code"] for (stage, _), spec in after.items()}
    changed = {STAGES[name] for name in stages}
    assert {stage for (stage, _), spec in before.items() if spec["code"] != codes[stage]} == changed
    stale = before.keys() - after.keys()
    for key, spec in before.items():
        reads = {tuple(Path(folder).parts[-2:]) for folder in spec["reads"].values()}
        assert (key in stale) == (key[0] in changed or bool(reads & stale)), key
    assert len(after) == len(before)


def test_all_edits_were_taken_back(planned: Callable[[], plan.Plan], before: plan.Plan) -> None:
    assert planned() == before
