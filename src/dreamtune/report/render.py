"""Write report.html, one self-contained file, and beside it, for programs and for others:

    summary.json    all that the report says
    README.md       the model card of the trained weights (see `card`)
    lm-eval/        results and answers in the files of lm-evaluation-harness (see `harness`)

The page needs no network: the chart library is inlined, and a content security policy forbids every request. Model
output is hostile text: the template escapes everything, JSON for scripts escapes `<`, and the policy lets only scripts
with a listed hash run, so that text which slipped through the escaping would still not be executed.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from dreamtune.files import write_json
from dreamtune.formats.likelihood import BINS_FILE
from dreamtune.formats.reads import Reads
from dreamtune.formats.shards import AUDIT_FILE, CONTAMINATION_FILE, LENGTHS_FILE, REFERENCES_FILE
from dreamtune.formats.training import LOG_FILE, RANGE_TEST_FILE
from dreamtune.report import audit_view, charts, comparison_view, front, view
from dreamtune.report.card import CARD_FILE, model_card
from dreamtune.report.explorer import KINDS, choose_answers, shown_of
from dreamtune.report.harness import write_harness_results
from dreamtune.report.recipe import recipe_rows
from dreamtune.report.smoke_view import range_test_figure
from dreamtune.report.sources import source_names, source_rows
from dreamtune.report.summary import build_summary
from dreamtune.report.text import POLICY, allowed, environment, reveal
from dreamtune.settings.report import Comparison, ReportConfig

HERE = Path(__file__).parent


def render_report(
    report: ReportConfig,
    comparison: Comparison,
    experiment: str,
    reads: dict[str, Path],
    out: Path,
    licence: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the report's files (see the module's docstring); return the verdict and the counts behind it.

    Args:
        report: title, number of example answers, and what the model card is to say of licence and base.
        comparison: primary measure, level and resamples of the verdict.
        experiment: name of the experiment, the heading if the settings give none.
        reads: version folders by name (see `dreamtune.formats.reads`); optional ones may be absent.
        out: folder for the files.
        licence: what the base model's files state (`inputs.base_card.base_licence`); None for nothing.
    """
    found = Reads(reads)
    summary = build_summary(found, comparison, experiment)
    write_json(out / "summary.json", summary)
    (out / "report.html").write_text(page(report, experiment, found, summary), encoding="utf-8")
    card = model_card(report, found, summary, licence or {})
    (out / CARD_FILE).write_text(card, encoding="utf-8", errors="backslashreplace")
    write_harness_results(found, summary, out / "lm-eval")
    gain = summary["accuracy"]["gain"]["value"]
    return {"verdict": summary["verdict"], "questions": summary["accuracy"]["base"]["n"], "accuracy_gain": gain}


def page(report: ReportConfig, experiment: str, reads: Reads, summary: dict[str, Any]) -> str:
    """Return report.html; `summary` is the content of summary.json."""
    audit, manifests = reads.json("shards", AUDIT_FILE), reads.manifests()
    references = reads.json("references", REFERENCES_FILE)
    drawn, examples = figures(reads, summary, audit), choose_answers(reads, report.examples)
    scripts = [chart_library(), (HERE / "page.js").read_text(encoding="utf-8")]
    contamination = {
        name.split("/", 1)[1]: reads.json(name, CONTAMINATION_FILE)
        for name in reads.folders
        if name.startswith("contamination/")
    }
    return (
        environment(HERE)
        .get_template("template.html.j2")
        .render(
            title=reveal(report.title or experiment, 200),
            experiment=experiment,
            summary=summary,
            mood=front.MOODS.get(summary["verdict"], "neutral"),
            tiles=front.tiles(summary),
            comparisons=comparison_view.comparison_tables(summary),
            decoding=comparison_view.decoding_rows(summary),
            full_likelihood=comparison_view.full_likelihood(summary),
            recipe=recipe_rows(summary["recipe"]),
            counts={
                "hard": front.passed_words(summary["canaries"], True),
                "soft": front.passed_words(summary["canaries"], False),
            },
            canaries=view.canary_rows(summary),
            training=view.training_facts(summary),
            sources=source_rows(summary),
            generation=view.generation_facts(summary),
            audit=audit_view.audit_facts(audit),
            turns=bool(audit.get("conversations")),
            references=audit_view.reference_view(references),
            contamination=audit_view.contamination_rows(contamination),
            overlaps=audit_view.overlap_tables(audit, contamination, partial(source_names, reads)),
            flags=audit_view.flag_rows(audit),
            lengths=audit_view.length_rows(audit),
            warnings=view.warnings(summary, manifests, audit, references),
            settings=view.settings_tables(summary),
            provenance=view.provenance_rows(manifests),
            usage=view.usage_rows(manifests),
            figures={figure.name: figure for figure in drawn},
            examples=examples,
            shown_of=shown_of(reads, examples),
            kinds=KINDS,
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            scripts=[Markup(script) for script in scripts],
            policy=POLICY.format(" ".join(allowed(script) for script in scripts) + " 'unsafe-eval'"),
        )
    )


def figures(reads: Reads, summary: dict[str, Any], audit: dict[str, Any]) -> list[charts.Figure]:
    """Return the charts for which there are data; `audit` is the content of audit.json."""
    drawn = [
        charts.accuracy_figure(summary),
        charts.mask_rate_figure(reads.json("likelihood", BINS_FILE)),
        *charts.training_figures(reads.json_lines("full", LOG_FILE)),
        range_test_figure(reads.json("smoke", RANGE_TEST_FILE)),
        charts.lengths_figure(reads.table("shards", LENGTHS_FILE), audit.get("max_tokens")),
        charts.truncation_figure(audit),
        charts.stages_figure(summary["wall_s"]),
    ]
    return [figure for figure in drawn if figure is not None]


@lru_cache(maxsize=1)
def chart_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script (about 0.9 MB), safe inside a <script> element."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets the default
    return bundle.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
