"""Write one experiment's report: a page with its verdict and all its measurements.

reads   shards, smoke, full, likelihood, answers and scores of one experiment; the base model's README.md
writes  report.html (self-contained), summary.json, README.md (model card of the trained weights), lm-eval/
usage   python workflow/scripts/render_report.py --out results/render_report/VERSION
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.inputs.base_card import base_licence
from dreamtune.report.render import render_report
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import Comparison, ReportConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        model = stage.section("model", ModelConfig)
        stage.counts = render_report(
            stage.section("report", ReportConfig),
            stage.section("comparison", Comparison),
            stage.spec["settings"]["experiment"],
            stage.reads(),
            stage.out,
            base_licence(model.path, model.revision),
        )
