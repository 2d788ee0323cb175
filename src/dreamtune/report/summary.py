"""summary.json: everything the report says, for other tools. Strict JSON; what is unknown is null.

Format 1: `verdict`, `sentence`, `reasons`, `remedy` (what to change, if invalid), `primary`, `alpha`,
`minimum_detectable_effect`; `accuracy`, `strict`, `lenient` and `nll` (test split, greedy), each with `base`, `tuned`
and `gain` (`delta` for nll), all of the form {"value", "low", "high", "n", "effective_n"}, and the number of `clusters`
of similar questions; `comparisons`: the same by question set and setting; `canaries`; `recipe` (what was trained, on
what, how long); `training`; `wall_s`.
Each set and setting of `comparisons` also has `pass_at_k` ({"1": …, "2": …, "n": …}) and `majority` (null for one
sample per question), blocks of the same form; `settings` of the generation; and `generation` and `scores` of both
models. `warnings`: sentences on answers that collapsed or were written in another order than the configured one;
`canvas_warnings`: on canvases of generation that training did not show. `decoding`: the test split under each of
`evaluate.canvases` and `evaluate.decoders`, see `evaluate.decoders.compare_settings`.
In each reading `undecided` counts the questions left out on both sides because an answer has no grade.
`few_shot`: the tuned model against the base with worked examples on the test split; null where nobody asked for it.
`sources`: of several sources, counts, training losses, `nll` and `accuracy` of each; [] where there is one.
`claims`: on how many questions of known templates the verdict rests, and the reading without contaminated questions.
`accuracy` is mathematical equivalence of what `extractors` find, `strict` the reference's own characters after the
marker, `lenient` the last number of the answer.
"""

from collections.abc import Callable
from typing import Any

import polars as pl

from dreamtune.canvas import Canvas, canvas_warnings
from dreamtune.evaluate.claims import Measured, with_base, with_claims, without_contaminated
from dreamtune.evaluate.comparison import compare_full, compare_nll, compare_samples, compare_scores, nothing
from dreamtune.evaluate.decoders import agreement, compare_settings
from dreamtune.evaluate.verdict import Verdict, decide
from dreamtune.files import finite
from dreamtune.formats.answers import GENERATION_FILE
from dreamtune.formats.likelihood import BINS_FILE, BOUND, FULL_FILE, LIKELIHOOD_FILE
from dreamtune.formats.names import BASE, FEW_SHOT_BASE, HEADLINE, SAMPLED, TUNED
from dreamtune.formats.questions import QUESTIONS_FILE
from dreamtune.formats.reads import Reads, collect_canaries, gates_of
from dreamtune.formats.scores import RATES_FILE, SCORES_FILE
from dreamtune.formats.shards import AUDIT_FILE
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.report.few_shot import read_few_shot, sides
from dreamtune.report.recipe import find_recipe
from dreamtune.report.sources import compare_sources
from dreamtune.settings.report import Comparison

FORMAT = 1
READINGS = {"accuracy": "correct", "strict": "strict", "lenient": "lenient"}


def build_summary(reads: Reads, comparison: Comparison, experiment: str) -> dict[str, Any]:
    """Return the content of summary.json (see the module's docstring).

    Args:
        reads: the experiment's version folders.
        comparison: primary measure, level and resamples of the verdict.
        experiment: name of the experiment.

    Raises:
        UserError: base and tuned do not answer the same questions, or a file is damaged.
    """
    comparisons = {f"{s}/{g}": _compare(reads, s, g, comparison) for s, g in reads.comparisons()}
    headline = comparisons.get("test/greedy") or {name: nothing("questions") for name in READINGS}
    draws = reads.table("likelihood", LIKELIHOOD_FILE)
    nll = nothing("rows") if draws is None else compare_nll(draws, comparison)
    measured = reads.json("likelihood", BINS_FILE)
    nll["kind"] = measured.get("kind", BOUND)
    nll["full"] = compare_full(reads.table("likelihood", FULL_FILE), comparison)
    canaries = collect_canaries(reads)
    collapse = headline.get("tuned", {}).get("scores", {}).get("collapse", [])
    gates, few_shot = gates_of(reads), _few_shot(headline)

    def again(accuracy: Any, likelihood: Any, against: Any) -> Verdict:
        few = few_shot | {"accuracy": against} if few_shot and against else None
        return decide(comparison, accuracy, likelihood, canaries, gates, collapse, few)

    base, tuned, few_shot_base = (_scores(reads, "test", HEADLINE, who) for who in (BASE, TUNED, FEW_SHOT_BASE))
    verdict, claims = with_claims(
        decide(comparison, headline["accuracy"], nll, canaries, gates, collapse, few_shot),
        Measured(base, tuned, draws, few_shot_base),
        _questions(reads, "test"),
        comparison,
        again,
    )
    verdict = with_base(verdict, reads.json("full", TRAINING_FILE).get("family"), nll["kind"])

    def verdict_of(block: dict[str, Any]) -> str:
        return decide(comparison, block["accuracy"], nll, canaries, gates, (), _few_shot(block)).name

    decoding = _decoding(reads, comparisons, verdict_of, comparison)
    manifests = reads.manifests()
    settings, wall_s = _settings(manifests), _wall_seconds(manifests)
    training = reads.json("full", TRAINING_FILE)
    summary = {
        "format": FORMAT,
        "experiment": experiment,
        **_verdict(verdict, comparison, headline["accuracy"], nll, decoding),
        "claims": claims,
        "sources": compare_sources(reads, comparison),
        **{name: headline[name] for name in READINGS},
        "few_shot": few_shot,
        "nll": nll | {"draws": measured.get("draws")},
        "comparisons": comparisons,
        "decoding": decoding,
        "warnings": [
            *_claim_warnings(verdict, claims),
            *(f"{name}, {text}" for name, block in comparisons.items() for text in block["warnings"]),
        ],
        "canvas_warnings": _canvas_warnings(reads, settings),
        "canaries": canaries,
        "recipe": find_recipe(settings, training, manifests, reads.json("shards", AUDIT_FILE), wall_s),
        "training": training,
        "smoke": reads.json("smoke", TRAINING_FILE),
        "wall_s": wall_s,
        "versions": {name: manifest.get("version") for name, manifest in manifests.items()},
        "settings": settings,
        "package_differences": package_differences(manifests),
    }
    cleaned: dict[str, Any] = finite(summary)
    return cleaned


def _verdict(
    verdict: Verdict, comparison: Comparison, accuracy: Any, nll: Any, decoding: list[dict[str, Any]]
) -> dict[str, Any]:
    # The likelihood is measured without a decoder, so a verdict that rests on it says nothing about decoders.
    decided = decoding if comparison.primary == "accuracy" else []
    said = agreement({row["setting"]: row["verdict"] for row in decided if row["verdict"]})
    return {
        "verdict": verdict.name,
        "sentence": verdict.sentence,
        "headline": verdict.headline,
        "detail": verdict.detail,
        "remedy": verdict.remedy,
        "reasons": [*verdict.reasons, *([said] if said else [])],
        "primary": comparison.primary,
        "alpha": comparison.alpha,
        "minimum_detectable_effect": {
            "primary": verdict.detectable,
            "accuracy": accuracy["detectable"],
            "nll": nll["detectable"],
            "power": 0.8,
        },
    }


def _scores(reads: Reads, questions: str, setting: str, who: str) -> pl.DataFrame | None:
    return reads.table(f"scores/{questions}/{setting}/{who}", SCORES_FILE)


def _questions(reads: Reads, questions: str) -> pl.DataFrame | None:
    """Return what the training rows say of each question of a set, "test" or a benchmark; None if nobody looked."""
    return reads.table("shards" if questions == "test" else f"contamination/{questions}", QUESTIONS_FILE)


def _claim_warnings(verdict: Verdict, claims: dict[str, Any]) -> list[str]:
    """Return a warning if the verdict is another one without contaminated questions."""
    second = claims["uncontaminated"]
    if second is None or not second["changes"]:
        return []
    return [
        f"the verdict “{verdict.name}” becomes “{second['verdict']}” without the {second['left_out']} contaminated "
        "test questions"
    ]


def _few_shot(block: dict[str, Any]) -> dict[str, Any] | None:
    """Return the accuracy of the tuned model against the few-shot base in one of the comparisons; None without it."""
    found = block.get("few_shot")
    return {name: found[name] for name in ("shots", "accuracy", "unread")} if found else None


def _compare(reads: Reads, questions: str, setting: str, comparison: Comparison) -> dict[str, Any]:
    """Compare base and tuned on one question set under one setting.

    Returns the three readings, pass@k and majority vote, and generation and scores of both models.
    """
    base, tuned = (_scores(reads, questions, setting, who) for who in (BASE, TUNED))
    if base is None or tuned is None:
        empty: dict[str, Any] = {
            "base": {},
            "tuned": {},
            "pass_at_k": {},
            "majority": None,
            "uncontaminated": None,
            "few_shot": None,
            "settings": {},
            "warnings": [],
        }
        return {name: nothing("questions") for name in READINGS} | empty
    blocks: dict[str, Any] = {
        name: compare_scores(base, tuned, column, comparison) for name, column in READINGS.items()
    }
    blocks |= compare_samples(base, tuned, comparison)
    known = _questions(reads, questions)
    blocks["uncontaminated"] = None if known is None else without_contaminated(base, tuned, known, comparison)
    blocks["few_shot"] = read_few_shot(reads, questions, setting, READINGS, comparison)
    for who in (BASE, TUNED):
        key = f"{questions}/{setting}/{who}"
        blocks[who] = {
            "generation": reads.json(f"answers/{key}", GENERATION_FILE),
            "scores": reads.json(f"scores/{key}", RATES_FILE),
        }
    blocks["settings"] = blocks["tuned"]["generation"].get("settings", {})
    return blocks | {"warnings": _warnings(blocks, setting)}


def _warnings(blocks: dict[str, Any], setting: str) -> list[str]:
    """Return warnings about the answers: a name that misleads, collapse, order of writing, or different settings."""
    found = []
    if setting == HEADLINE and (temperature := blocks["settings"].get("temperature")):
        found.append(
            f"the answers are sampled at temperature {temperature:g}, though their setting is called {setting}"
        )
    for who, side in sides(blocks).items():
        scores = side["scores"]
        if scores.get("collapse"):
            found.append(f"{who}: the answers collapsed: {', '.join(scores['collapse'])}")
        found += [f"{who}: {text}" for text in scores.get("warnings", [])]
    if blocks["base"]["generation"].get("settings", {}) != blocks["settings"]:
        found.append("base and tuned were generated with different settings")
    return found


def _decoding(
    reads: Reads, comparisons: dict[str, Any], verdict_of: Callable[[Any], str], comparison: Comparison
) -> list[dict[str, Any]]:
    """Return the answers to the test split under each canvas and decoder, see `compare_settings`; [] without any."""
    names = [setting for questions, setting in reads.comparisons() if questions == "test"]
    scores = {name: _scores(reads, "test", name, "tuned") for name in names}
    tuned = {name: frame for name, frame in scores.items() if frame is not None}
    if not {HEADLINE} < tuned.keys() - {SAMPLED}:
        return []
    blocks = {name: comparisons[f"test/{name}"] for name in tuned}
    return compare_settings(blocks, tuned, verdict_of, comparison)


def _canvas_warnings(reads: Reads, settings: dict[str, Any]) -> list[str]:
    """Return warnings about canvases of the test split that training did not show, by generation setting."""
    responses = (reads.json("shards", AUDIT_FILE).get("response_tokens") or {}).get("train", {})
    train = settings.get("full", {}).get("train")
    found = []
    for questions, setting in reads.comparisons():
        generate = settings.get(f"answers/{questions}/{setting}/tuned", {}).get("generate")
        if train and generate and questions == "test":
            found += [f"test/{setting}, {text}" for text in canvas_warnings(responses, Canvas.of(train, generate))]
    return found


def _wall_seconds(manifests: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the wall seconds of each folder, and their total, which counts a version with two names once."""
    seconds = {name: manifest["wall_s"] for name, manifest in manifests.items() if manifest.get("wall_s") is not None}
    once = {(m.get("stage"), m.get("version") or name): m["wall_s"] for name, m in manifests.items() if name in seconds}
    return seconds | {"total": sum(once.values())}


def _settings(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return each stage's settings by section, fields that decide the result together with those that do not."""
    settings: dict[str, Any] = {}
    for name, manifest in manifests.items():
        results, runtime = (manifest.get(kind) or {} for kind in ("settings", "runtime"))
        settings[name] = {
            key: results[key]
            if not isinstance(results.get(key, {}), dict)
            else results.get(key, {}) | runtime.get(key, {})
            for key in sorted(results | runtime)
        }
    return settings


def package_differences(manifests: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Return the packages with different versions in different stages, as {package: {version: [stages]}}."""
    seen: dict[str, dict[str, list[str]]] = {}
    for name, manifest in manifests.items():
        versions = {**(manifest.get("packages") or {}), "python": manifest.get("python")}
        for package, version in versions.items():
            if version:
                seen.setdefault(package, {}).setdefault(version, []).append(name)
    return {package: versions for package, versions in sorted(seen.items()) if len(versions) > 1}
