"""Pretrain the tiny Dream model from scratch: masked diffusion on the documents of corpus.py.

The same code runs on a GPU (a few minutes) and on a CPU (hours for the shipped number of tokens). The questions of
rows.parquet are excluded from the corpus. Writes config.json, generation_config.json, model.safetensors (bfloat16),
weights.sha256 and pretrain_log.jsonl.

The shipped weights were made in three runs, two on a GPU (four minutes) and one on a CPU (seven); pretrain_log.jsonl
holds their logs. The last takes back overconfidence: without it the base is surer than chance of wrong words in a
format it has never seen.

    python resources/tiny-dream/pretrain.py --out /tmp/first --minutes 1.9
    python resources/tiny-dream/pretrain.py --out /tmp/second --start /tmp/first --seed 2 --chunks 150 \\
        --mix retold=4 --steps 9000 --lr 2e-3
    python resources/tiny-dream/pretrain.py --out /tmp/third --start /tmp/second --seed 3 --chunks 20 \\
        --mix retold=4 --smoothing 0.1 --steps 120 --lr 5e-4 --device cpu
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from batches import Corpus
from corpus import CHUNK, Mix
from make_tokenizer import BEGINNING, END, MASK
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

HERE = Path(__file__).resolve().parent
WHOLE_TEXT = 0.05  # share of the documents whose prompt is masked, too
# What the first line of a run's log tells.
RECORDED = ("seed", "chunks", "mix", "steps", "minutes", "batch_tokens", "lr", "smoothing", "device")


def mix_of(text: str) -> Mix:
    """Read `one=3,two=0.5` on top of the standard mix."""
    given = dict(part.split("=") for part in text.split(",") if part)
    unknown = set(given) - {field.name for field in fields(Mix)}
    if unknown:
        raise SystemExit(f"--mix: unknown {sorted(unknown)}; known are {[field.name for field in fields(Mix)]}")
    return Mix(**{name: float(weight) for name, weight in given.items()})


def make_model(args: argparse.Namespace) -> Qwen2ForCausalLM:
    """Return Dream's architecture (Qwen2 that attends in both directions) with fresh weights."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=128,
        rms_norm_eps=1e-6,
        initializer_range=args.init,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=tokenizer.token_to_id(BEGINNING),
        eos_token_id=end,
        pad_token_id=end,
    )
    config.mask_token_id = tokenizer.token_to_id(MASK)
    config.is_causal = False
    torch.manual_seed(args.seed)
    return Qwen2ForCausalLM(config)


def losses_of(
    model: nn.Module, group: tuple[torch.Tensor, torch.Tensor], batch_tokens: int, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw documents of one width; return the mean smoothed and plain cross-entropy of their masked tokens.

    Everything is drawn on the device, so that the whole step can be captured in a CUDA graph and replayed.
    """
    device, width = group[0].device, group[0].shape[1]
    size = batch_tokens // width
    rows = torch.randint(len(group[0]), (size,), device=device)
    ids = group[0][rows].long()  # [B, L]
    length, prompt = group[1][rows].split(1, dim=1)  # [B, 1] each
    place = torch.arange(width, device=device)[None]  # [1, L]
    rate = (torch.rand(1, device=device) + torch.arange(size, device=device) / size) % 1  # [B], evenly spread
    whole = torch.rand(size, 1, device=device) < WHOLE_TEXT
    maskable = (place >= torch.where(whole, 1, prompt)) & (place < length)  # never the beginning token
    masked = maskable & (torch.rand(size, width, device=device) < rate[:, None])
    visible = (place < length)[:, None, None, :].expand(size, 1, width, width)
    noisy = torch.where(masked, model.config.mask_token_id, ids)
    with torch.autocast(device.type, torch.bfloat16, enabled=ids.is_cuda, cache_enabled=False):
        logits = model(input_ids=noisy, attention_mask=visible, use_cache=False).logits  # [B, L, V]
    # Dream's head is shifted: the logits at i - 1 predict the token at i.
    scores, targets = logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()
    weights = masked[:, 1:].flatten() / masked[:, 1:].sum().clamp(min=1)
    smooth = F.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
    plain = F.cross_entropy(scores.detach(), targets, reduction="none")
    return (smooth * weights).sum(), (plain * weights).sum()


class Trainer:
    """The model's optimiser and one training step per width of batch; on a GPU each step is one CUDA graph."""

    def __init__(self, model: Qwen2ForCausalLM, corpus: Corpus, args: argparse.Namespace) -> None:
        self.model, self.args, cuda = model, args, args.device.startswith("cuda")
        self.forward = torch.compile(model, dynamic=False) if args.compile else model
        self.lr = torch.tensor(args.lr, device=args.device) if cuda else args.lr
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True, capturable=cuda
        )
        self.total = torch.zeros((), device=args.device)  # sum of the losses since the last line of progress
        self.parameters = list(model.parameters())
        self.set_lr(0.0)  # capturing a step takes it a few times
        steps = [partial(self.step, group) for group in corpus.groups]
        self.steps = [self.captured(step) for step in steps] if cuda else steps

    def step(self, group: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Take one optimiser step on documents of one width."""
        loss, plain = losses_of(self.forward, group, self.args.batch_tokens, self.args.smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.total += plain

    def captured(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return the replay of `step` as a CUDA graph: a model this small is bound by kernel launches."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def set_lr(self, lr: float) -> None:
        """Change the learning rate, in place where a graph reads it."""
        if isinstance(self.lr, torch.Tensor):
            self.lr.fill_(lr)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def schedule(done: float) -> float:
    """Return the learning rate's factor after a share `done` of the training: warm-up, then a cosine to zero."""
    return min(done / 0.02, 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def train(model: Qwen2ForCausalLM, corpus: Corpus, args: argparse.Namespace) -> None:
    """Train for `--steps`, or for `--minutes` if that is given; print and log progress."""
    torch.manual_seed(args.seed + 1)
    trainer = Trainer(model, corpus, args)
    trainer.total.zero_()
    generator, shares = torch.Generator().manual_seed(args.seed), corpus.shares()
    start, last, since = time.monotonic(), 0.0, 0
    before = (args.start / "pretrain_log.jsonl").read_text(encoding="utf-8") if args.start else ""
    with (args.out / "pretrain_log.jsonl").open("w", encoding="utf-8") as log:
        log.write(before + json.dumps({"run": {name: vars(args)[name] for name in RECORDED}}) + "\n")
        for step in itertools.count(1):
            wall = time.monotonic() - start
            done = wall / (60 * args.minutes) if args.minutes else (step - 1) / args.steps
            lr = args.lr * schedule(done)
            trainer.set_lr(lr)
            trainer.steps[int(torch.multinomial(shares, 1, generator=generator))]()
            since += 1
            ended = done >= 1 if args.minutes else step >= args.steps
            if ended or wall - last >= args.log_seconds:
                mean, last, tokens = float(trainer.total) / since, wall, step * args.batch_tokens
                trainer.total.zero_()
                since, left = 0, wall * (1 / max(done, 1e-6) - 1)
                values = {"step": step, "loss": round(mean, 4), "lr": round(lr, 7), "wall_s": round(wall, 1)}
                log.write(json.dumps(values) + "\n")
                log.flush()
                speed = tokens / max(wall, 1e-6)
                print(f"step {step}: loss {mean:.4f}, {speed:,.0f} tokens/s, {max(left, 0):.0f} s left", flush=True)
            if ended:
                return


def save(model: Qwen2ForCausalLM, out: Path) -> None:
    """Write the checkpoint in the official format and the digest of its weights."""
    weights = model.state_dict()
    stored = {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    c = model.config
    shared = {"bos_token_id": c.bos_token_id, "eos_token_id": c.eos_token_id, "pad_token_id": c.pad_token_id}
    config = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": c.hidden_size,
        "initializer_range": c.initializer_range,
        "intermediate_size": c.intermediate_size,
        "mask_token_id": c.mask_token_id,
        "max_position_embeddings": c.max_position_embeddings,
        "max_window_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_hidden_layers": c.num_hidden_layers,
        "num_key_value_heads": c.num_key_value_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10_000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": c.vocab_size,
        **shared,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = json.dumps({**shared, "use_cache": False}, indent=2) + "\n"
    (out / "generation_config.json").write_text(generation, encoding="utf-8")
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    (out / "weights.sha256").write_text(f"{digest}  model.safetensors\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write into (default: this script's)")
    parser.add_argument("--start", type=Path, help="continue from the weights in this folder (same shape)")
    parser.add_argument("--steps", type=int, default=8400, help="optimiser steps")
    parser.add_argument("--minutes", type=float, help="train for so long instead of a number of steps")
    parser.add_argument("--mix", default="", help="weights of the sorts of document, such as one=3,two=0.5")
    parser.add_argument("--chunks", type=int, default=450, help=f"size of the corpus in chunks of {CHUNK} documents")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="positions of one step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--smoothing", type=float, default=0.0, help="label smoothing, against overconfidence")
    parser.add_argument("--hidden", type=int, default=128, help="width of the model")
    parser.add_argument("--intermediate", type=int, default=512, help="width of the feed-forward layers")
    parser.add_argument("--layers", type=int, default=4, help="number of layers")
    parser.add_argument("--heads", type=int, default=4, help="attention heads")
    parser.add_argument("--init", type=float, default=0.05, help="standard deviation of the initial weights")
    parser.add_argument("--seed", type=int, default=1, help="seed of corpus, initial weights and masks")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that write the corpus")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--log-seconds", type=float, default=5.0, help="seconds between two lines of progress")
    return parser.parse_args()


def main() -> None:
    """Write the corpus into memory, train, save."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    start = time.monotonic()
    corpus = Corpus(args.chunks, args.seed, mix_of(args.mix), args.workers, args.device)
    print(f"{corpus.documents:,} documents, {corpus.tokens:,} tokens, made in {time.monotonic() - start:.0f} s")
    model = make_model(args)
    if args.start:
        model.load_state_dict(load_file(args.start / "model.safetensors"))
    model.to(args.device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, corpus, args)
    save(model, args.out)


if __name__ == "__main__":
    main()
