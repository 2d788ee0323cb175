"""Which way to mask? The gradient's noise under each, and what trainings make of it. docs/recipes.md has the tables.

    python benchmarks/objectives.py noise --work /tmp/objectives                    responses of 30 and 100 tokens
    python benchmarks/objectives.py noise --work /tmp/objectives --tokens 300 1000 --device cuda
    python benchmarks/objectives.py runs --work /tmp/objectives --seeds 5 --device cuda
    python benchmarks/objectives.py density --work /tmp/objectives --config config/mine.yaml --experiment main

noise     the variance of the gradient of fixed documents over their masks, relative to independent t, with base weights
          and after `--steps` optimiser steps; what the choice of documents adds (data), and both together in a step at
          equal tokens; and the share that lies between numbers of masked tokens, which is all that spreading rates
          evenly can take away. Intervals come from the spread over the documents.
runs      trainings at equal tokens and steps: held-out NLL and accuracy over the seeds, and their differences to the
          way --against, paired by seed. What --work holds is not made again, and a seed is finished before the next
          begins, so that a stopped call goes on, and a second one compares what is there with another way.
density   prints the densities for `train.rate_density`: of P-POTS, by the loss, and by the gradient.

Model, data and training are those of an experiment, the demo's by default. Up to 30 tokens its rows are taken as they
are; longer responses are joined from several rows, and cut to the length. The embedded model was trained on 128
positions: beyond them it can only be judged after training.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import _src
import objective_gradients
import objective_noise
import objective_runs
from accuracy_table import table
from objective_ways import BIASED, NAMED, REFERENCE, WAYS, longer_rows

from dreamtune.config import Experiment, load_config
from dreamtune.data.prepare import prepare_shards
from dreamtune.shards import read_meta
from dreamtune.train.train import train_adapter

ROOT = Path(__file__).resolve().parents[1]
AS_THEY_ARE = 30  # tokens of a response up to which rows are not joined
LIMITS = {"base": 0.6, "trained": 0.85}  # what --check demands of exact counts at 30 tokens
TOY = objective_noise.Sizes(documents=4, counts=3, draws=4, density=2)


def main() -> int:
    """Measure, print lines of JSON and a table; with --check return 1 where exact counts are too noisy."""
    arguments = parse()
    experiment = chosen(arguments)
    shards = prepared(experiment, arguments.work)
    if arguments.what == "noise":
        return noise(arguments, experiment, shards)
    density = measured_density(arguments, experiment, shards)
    if arguments.what == "density":
        print("".join(f"rate_density: {density[name]} # by the {name}\n" for name in density))
        return 0
    report = reporter("runs")
    ways = list(dict.fromkeys([arguments.against, *arguments.ways]))
    steps, work = arguments.steps, arguments.work / f"runs-{arguments.device}"
    lines = objective_runs.compare(experiment, shards, work, ways, arguments.seeds, steps, density, report)
    columns = ["nll", f"nll against {ways[0]}", "accuracy", f"accuracy against {ways[0]}"]
    rows = [[named(line), *(spread(line[name]) for name in columns), f"{line['tokens']:,.0f}"] for line in lines]
    print(table(["way", *columns, "tokens"], rows))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["noise", "runs", "density"], help="what is measured")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made; a second call goes on in it")
    parser.add_argument("--config", type=Path, default=ROOT / "config/demo.yaml", help="configuration file")
    parser.add_argument("--experiment", default="demo", help="experiment whose model, data and training are taken")
    parser.add_argument("--tokens", type=int, nargs="+", default=[30, 100], help="response tokens of the documents")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY", help="of them all")
    parser.add_argument("--against", default=REFERENCE, choices=list(WAYS), metavar="WAY", help="way to compare with")
    parser.add_argument("--steps", type=int, default=375, help="optimiser steps of a training")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each way")
    documents = objective_noise.Sizes.documents
    parser.add_argument("--documents", type=int, default=documents, help="documents whose noise is measured")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--toy", action="store_true", help="a few documents, masks and steps")
    parser.add_argument("--check", action="store_true", help="fail where exact counts are too noisy at 30 tokens")
    return parser.parse_args()


def chosen(arguments: argparse.Namespace) -> Experiment:
    """Return the experiment, on the wanted device, at toy scale if asked for."""
    experiment = load_config(arguments.config).experiments[arguments.experiment]
    model = experiment.model.model_copy(update={"device": arguments.device})
    experiment = experiment.model_copy(update={"model": model})
    if not arguments.toy:
        return experiment
    arguments.steps, arguments.seeds = min(arguments.steps, 4), min(arguments.seeds, 2)
    likelihood = experiment.evaluate.likelihood.model_copy(update={"max_rows": 4, "draws": 1})
    generate = experiment.generate.model_copy(update={"max_prompts": 2})
    evaluate = experiment.evaluate.model_copy(update={"likelihood": likelihood})
    return experiment.model_copy(update={"evaluate": evaluate, "generate": generate})


def prepared(experiment: Experiment, work: Path) -> Path:
    """Return the shards of the experiment, made if --work has none."""
    return made(work / "shards", lambda out: prepare_shards(experiment.data, experiment.model, out))


@_src.whole
def _written(folder: Path, write: Any) -> None:
    folder.mkdir(parents=True)
    write(folder)


def made(folder: Path, write: Any) -> Path:
    """Return a folder that is whole, written now if it is not there."""
    return folder if folder.exists() else _written(folder, write)


def noise(arguments: argparse.Namespace, experiment: Experiment, shards: Path) -> int:
    """Print the noise of the gradient for each length and both weights; return 1 if --check fails."""
    sizes = TOY if arguments.toy else objective_noise.Sizes(documents=arguments.documents)
    ways = [way for way in arguments.ways if way in NAMED]
    failed = False
    for tokens in arguments.tokens:
        rows = shards if tokens <= AS_THEY_ARE else longer(arguments.work, shards, tokens, 1000)
        documents = objective_gradients.documents_of(rows, experiment.train, sizes.documents)
        mask_id = read_meta(rows)["tokenizer"]["mask_id"]
        columns: dict[str, list[dict[str, Any]]] = {}
        for weights in LIMITS:
            adapter = trained(arguments, experiment, rows, tokens) if weights == "trained" else None
            gradients = objective_gradients.Gradients(experiment.model, experiment.train, adapter)
            report = reporter(f"{tokens} tokens, {weights}")
            columns[weights] = objective_noise.measure(
                gradients, experiment.train, documents, ways, sizes, mask_id, report
            )
            exact = next((line for line in columns[weights] if line["way"] == "exact counts"), None)
            failed |= tokens <= AS_THEY_ARE and exact is not None and exact["noise"] > LIMITS[weights]
        print(f"\n{noise_table(tokens, columns)}\n", flush=True)
    return int(arguments.check and failed)


def longer(work: Path, shards: Path, tokens: int, rows: int) -> Path:
    """Return shards with longer responses, made if --work has none."""
    return made(work / f"shards-{tokens}", lambda out: longer_rows(shards, out, tokens, rows))


def trained(arguments: argparse.Namespace, experiment: Experiment, shards: Path, tokens: int) -> Path:
    """Return an adapter trained as the experiment says on these rows, for --steps steps."""
    fixed: dict[str, Any] = {"validation_rows": 0, "rate_draws": "even", "mask_counts": "random"}
    fixed |= {"micro_batch_tokens": objective_gradients.MICRO_BATCH}
    train = experiment.train.model_copy(update=fixed | {"max_steps": arguments.steps, "epochs": arguments.steps})
    folder = arguments.work / f"trained-{tokens}-{arguments.steps}-{arguments.device}"
    work = arguments.work / "checkpoints" / folder.name
    return made(folder, lambda out: train_adapter(train, experiment.model, shards, out, work)) / "adapter"


def measured_density(arguments: argparse.Namespace, experiment: Experiment, shards: Path) -> dict[str, list[float]]:
    """Return the densities of the base on the experiment's rows, measured once."""
    folder = arguments.work / f"density-{arguments.device}"

    def write(out: Path) -> None:
        masks = TOY.density if arguments.toy else objective_noise.Sizes.density
        documents = objective_gradients.documents_of(shards, experiment.train, masks)
        gradients = objective_gradients.Gradients(experiment.model, experiment.train, None)
        mask_id = read_meta(shards)["tokenizer"]["mask_id"]
        found = objective_gradients.densities(gradients, experiment.train, documents, masks, mask_id)
        (out / "density.json").write_text(json.dumps(found))

    found: dict[str, list[float]] = json.loads((made(folder, write) / "density.json").read_text())
    return found


def noise_table(tokens: int, columns: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of one length: variance over masks relative to independent t, and that of a step."""
    heads = [f"{tokens} tokens"]
    for weights in columns:
        heads += [weights, f"{weights}: a step"]
    rows = []
    for lines in zip(*columns.values(), strict=True):
        cells = [named(lines[0])]
        for line in lines:
            cells += [f"{line['noise']:.2f} ± {1.96 * line['error']:.2f}"]
            cells += [f"{line['step']:.2f}" if "step" in line else ""]
        rows.append(cells)
    return table(heads, rows)


def named(line: dict[str, Any]) -> str:
    """Return a way's name, with a star if it trains another loss than the bound."""
    return line["way"] + (" *" if line["way"] in BIASED else "")


def spread(found: list[float]) -> str:
    """Return a mean with its limits."""
    return f"{found[0]:.4f} [{found[1]:.4f}, {found[2]:.4f}]"


def reporter(what: str) -> Any:
    """Return a function that prints a line of JSON."""
    return lambda kind, **values: print(json.dumps({"what": what, "kind": kind} | values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
