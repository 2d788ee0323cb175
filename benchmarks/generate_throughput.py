"""Tokens per second of generation in Dream 7B's shape with random weights: the official loop against ours, in one run.

    official        one pass of the whole row per token, the head on every position, dense bfloat16, batch 1
    nf4             the same loop on NF4 layers that unpack at each product, batch 1
    notebook        the same on the model as the notebook's training leaves it, from which its answers came: NF4 layers,
                    an adapter beside them, embeddings, norms and head in float32, eager attention
    exact           ours with `refresh: step`, batch 1
    cached-1 / -N   ours with blocks of 32 and `refresh: block`, one token a step, batch 1 and N
    double-1 / -N   the same with two tokens a step
    nf4-1, nf4-double-1, nf4-double-N, fp8-…   cached and double with `products: nf4` and `fp8`: weights in fewer bits,
                    all other numbers as above
    near-1, fp8-near-double-N   the model sees 64 masks beyond a block (`lookahead`), and no pass computes the others

Random weights say nothing about quality. The end token's row of the head is zero, so that no answer ends early; every
run must make all its tokens. With --check the exit status is 1 where a ratio falls below its floor.

usage   python benchmarks/generate_throughput.py --work /tmp/throughput --check
        python benchmarks/generate_throughput.py --work /tmp/throughput --toy      on a CPU, in seconds
        python benchmarks/generate_throughput.py --work /tmp/throughput --ways official nf4-1 nf4-double-1
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import torch
from notebook_recipe import notebook_model
from seven_b_shape import END, MASK, TOY, report, write_checkpoint

from dreamtune.generate.loading import load_to_generate
from dreamtune.generate.sampler import Request, denoise
from dreamtune.model.loading import load_model
from dreamtune.model.logits import unwrap
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig

BLOCK = 32
CACHED: dict[str, Any] = {"block_length": BLOCK, "refresh": "block"}
NEAR = CACHED | {"lookahead": 2 * BLOCK}
HALF = {"steps": "halved"}
# Each of ours: whether its batch is N, and what it changes of the settings.
OURS: dict[str, tuple[bool, dict[str, Any]]] = {
    "exact": (False, {}),
    "cached-1": (False, CACHED),
    "cached-N": (True, CACHED),
    "double-1": (False, CACHED | HALF),
    "double-N": (True, CACHED | HALF),
    "near-1": (False, NEAR),
    "nf4-1": (False, CACHED | {"products": "nf4"}),
    "nf4-double-1": (False, CACHED | HALF | {"products": "nf4"}),
    "nf4-double-N": (True, CACHED | HALF | {"products": "nf4"}),
    "nf4-near-1": (False, NEAR | {"products": "nf4"}),
    "nf4-near-double-1": (False, NEAR | HALF | {"products": "nf4"}),
    "fp8-1": (False, CACHED | {"products": "fp8"}),
    "fp8-double-1": (False, CACHED | HALF | {"products": "fp8"}),
    "fp8-double-N": (True, CACHED | HALF | {"products": "fp8"}),
    "fp8-near-double-N": (True, NEAR | HALF | {"products": "fp8"}),
}
BASELINES = ("official", "nf4", "notebook")
# ours, baseline, and the least ratio that --check accepts
RATIOS = (
    ("exact", "official", None),
    ("cached-1", "official", 2.5),
    ("cached-N", "official", 12.0),
    ("double-1", "notebook", 10.0),
    ("double-N", "notebook", 50.0),
    ("double-1", "nf4", None),
    ("double-N", "nf4", None),
    ("double-1", "official", None),
    ("double-N", "official", None),
    ("nf4-1", "official", 5.0),
    ("nf4-double-1", "official", 9.0),
    ("nf4-near-1", "official", None),
    ("nf4-near-double-1", "official", None),
    ("fp8-1", "official", None),
    ("fp8-double-1", "official", None),
    ("nf4-double-N", "official", None),
    ("fp8-double-N", "official", 30.0),
    ("fp8-near-double-N", "official", None),
)


def main() -> int:
    """Time all the ways, print them as JSON lines and as a table; return the exit status."""
    options = parse()
    device = "cuda" if torch.cuda.is_available() and not options.toy else "cpu"
    report("machine", gpu=torch.cuda.get_device_name() if device == "cuda" else None, torch=torch.__version__)
    folder = options.work / "model"
    if not folder.exists():
        write_checkpoint(folder, TOY if options.toy else {}, device)
    found = {line["name"]: line for line in measured(options, folder, device)}
    ratios = [
        (ours, base, floor, found[ours]["tokens_per_s"] / found[base]["tokens_per_s"])
        for ours, base, floor in RATIOS
        if ours in found and base in found
    ]
    for ours, base, floor, ratio in ratios:
        report("ratio", ours=ours, baseline=base, ratio=round(ratio, 2), floor=floor)
    print_table(found, ratios)
    return int(options.check and any(floor is not None and ratio < floor for *_, floor, ratio in ratios))


def parse() -> argparse.Namespace:
    """Read the command line; --toy only changes what is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB)")
    parser.add_argument("--toy", action="store_true", help="two narrow layers on the CPU")
    parser.add_argument("--prompt-tokens", type=int, help="default: 128, toy 16")
    parser.add_argument("--new-tokens", type=int, help="default: 512, toy 64")
    parser.add_argument("--batch", type=int, help="the N of names that end in it; default: 32, toy 4")
    parser.add_argument("--baseline-steps", type=int, default=64, help="steps from which the baselines' rate is taken")
    every = [*BASELINES, *OURS]
    parser.add_argument("--ways", nargs="+", default=every, choices=every, metavar="NAME", help="of them all")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a ratio is below its floor")
    options = parser.parse_args()
    for name, full, toy in (("prompt_tokens", 128, 16), ("new_tokens", 512, 64), ("batch", 32, 4)):
        if getattr(options, name) is None:
            setattr(options, name, toy if options.toy else full)
    return options


def measured(options: argparse.Namespace, folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """Yield name, tokens per second and peak memory of each way; one model is in memory at a time."""
    load = partial(load_model, folder, dtype="bfloat16", device=device)
    baselines = {
        "official": load,
        "nf4": partial(load, quantization="nf4"),
        "notebook": lambda: notebook_model(folder, device).eval(),
    }
    for name, make in baselines.items():
        if name not in options.ways:
            continue
        model = without_end(make())
        full_sequence_loop(model, prompts(options, 1)[0], options.new_tokens, 2)  # warms up
        yield line(name, 1, device, partial(baseline, model, options))
        del model
    config = ModelConfig(path=str(folder), quantization="nf4", dtype="bfloat16", device=device)
    for products in ("bf16", "nf4", "fp8"):
        names = [name for name in OURS if name in options.ways and OURS[name][1].get("products", "bf16") == products]
        if not names:
            continue
        model = without_end(load_to_generate(config, products=products))
        for name in names:
            rows, settings = settings_of(name, options)
            # As wide as what is timed, so that the graphs are the same, in two steps a block.
            blocks = options.new_tokens // (settings.block_length or options.new_tokens)
            ours(model, prompts(options, rows), settings.model_copy(update={"steps": 2 * blocks}))
            yield line(name, rows, device, partial(ours, model, prompts(options, rows), settings))
        del model


def settings_of(name: str, options: argparse.Namespace) -> tuple[int, GenerateConfig]:
    """Return the rows that run together, and the settings, of one of ours."""
    many, changes = OURS[name]
    rows = options.batch if many else 1
    changes = changes | ({"steps": options.new_tokens // 2} if changes.get("steps") == "halved" else {})
    if "block_length" in changes:
        changes["block_length"] = min(changes["block_length"], options.new_tokens)
    return rows, GenerateConfig(max_new_tokens=options.new_tokens, batch_size=rows, **changes)


def line(name: str, rows: int, device: str, run: Any) -> dict[str, Any]:
    """Time `run`, which returns the tokens made and the passes taken, and print one line."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    tokens, passes = run()
    seconds = time.perf_counter() - start
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None
    found = {"name": name, "rows": rows, "tokens": tokens, "passes": passes, "seconds": round(seconds, 3)}
    found |= {"tokens_per_s": round(tokens / seconds, 2), "peak_gib": peak}
    report("rate", **found)
    return found


def baseline(model: Any, options: argparse.Namespace) -> tuple[int, int]:
    """Run the full-sequence loop; each of its passes stands for one token."""
    steps = min(options.baseline_steps, options.new_tokens)
    full_sequence_loop(model, prompts(options, 1)[0], options.new_tokens, steps)
    return steps, steps


@torch.inference_mode()
def full_sequence_loop(model: Any, prompt: list[int], new_tokens: int, steps: int) -> None:
    """Denoise as the official sampler does with order entropy, greedily, in `steps` passes.

    A step costs the more the more positions are masked. So that few steps stand for one per token, each fills in its
    part of the answer: from all masked to none, like the whole run, on average half.
    """
    config, device = unwrap(model).config, unwrap(model).device
    masks = [config.mask_token_id] * new_tokens
    ids = torch.tensor([prompt + masks], device=device)  # [1, L]
    for step in range(steps):
        logits = model(input_ids=ids).logits  # [1, L, V]
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)  # Dream's head looks one position ahead
        masked = ids[0] == config.mask_token_id
        scores = logits[0, masked]  # [M, V]
        scores[:, config.mask_token_id] = -torch.inf
        probability = scores.softmax(dim=-1)
        negative_entropy = (probability * (probability + 1e-10).log()).sum(dim=-1)  # [M]
        count = new_tokens * (step + 1) // steps - new_tokens * step // steps
        surest = negative_entropy.topk(count).indices
        where = masked.nonzero().squeeze(-1)[surest]
        ids[0, where] = probability.argmax(dim=-1)[surest]
    assert not (ids == config.mask_token_id).any()  # waits for the device, too


def ours(model: Any, some: list[list[int]], settings: GenerateConfig) -> tuple[int, int]:
    """Generate, and see to it that every row made all its tokens."""
    requests = [Request(prompt, number) for number, prompt in enumerate(some)]
    answers = [answer for _, answer in denoise(model, requests, settings)]
    assert all(len(answer.tokens) == settings.max_new_tokens and not answer.ended for answer in answers)
    return sum(len(answer.tokens) for answer in answers), max(answer.passes for answer in answers)


def without_end(model: Any) -> Any:
    """Make the end token impossible: of many random logits the largest is above 0."""
    with torch.no_grad():
        unwrap(model).lm_head.weight[unwrap(model).config.eos_token_id] = 0
    return model


def prompts(options: argparse.Namespace, rows: int) -> list[list[int]]:
    """Return random prompts of ordinary tokens."""
    below = TOY["mask_token_id"] if options.toy else min(END, MASK)
    drawn: list[list[int]] = np.random.default_rng(0).integers(0, below, (rows, options.prompt_tokens)).tolist()
    return drawn


def print_table(found: dict[str, dict[str, Any]], ratios: list[Any]) -> None:
    """Print rates and ratios for people."""
    print(f"\n{'way':<18}{'rows':>6}{'passes':>8}{'seconds':>10}{'tokens/s':>11}{'peak GiB':>10}")
    for name, row in found.items():
        peak = "-" if row["peak_gib"] is None else row["peak_gib"]
        print(
            f"{name:<18}{row['rows']:>6}{row['passes']:>8}{row['seconds']:>10.2f}{row['tokens_per_s']:>11.1f}{peak:>10}"
        )
    for ours_name, base, floor, ratio in ratios:
        print(f"{ours_name + ' / ' + base:<30}{ratio:>8.2f}" + ("" if floor is None else f"   (at least {floor})"))


if __name__ == "__main__":
    sys.exit(main())
