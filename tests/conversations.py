"""Two small tokenizers with chat templates, like those of Dream-Instruct and of LLaDA-Instruct; and conversations."""

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dreamtune.data.prepare import prepare_shards
from dreamtune.data.tokenizer import QWEN2_WORDS
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig

# Qwen2's, from which Dream's comes, with the tool calls of Qwen2.5's.
CHATML = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}{%- if message.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content }}{%- for call in message.tool_calls or [] %}"
    "{{- '<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Llama 3's, which LLaDA's resembles: it writes the beginning token, and trims what is said.
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3}
NAMED = {
    "chatml": {"bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "mask_token": "<|mask|>"},
    "llama3": {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "mask_token": "<|mdm_mask|>"},
}
MARKS = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}
MERGES = [("Ċ", "Ċ"), ("t", "h"), ("th", "e"), ("Ġ", "t"), ("i", "s"), ("a", "n"), ("4", "2")]
# The leak that a conversation brings: what the user says later confirms the earlier answer.
CONFIRMED = [
    {"role": "user", "content": "What is 6 times 7?"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "thanks, 42 is right"},
    {"role": "assistant", "content": "You are welcome."},
]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the file's name says."""
    if file.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(file)
    elif file.suffix == ".csv":
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def dialogue(*said: str) -> list[dict[str, Any]]:
    """Return messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


def write_chat_tokenizer(folder: Path, kind: str = "chatml", template: str | None = None, **named: str) -> str:
    """Write a byte-level tokenizer with the special tokens and the chat template of a kind; return its folder."""
    folder.mkdir(exist_ok=True)
    tokens = NAMED[kind] | named
    special = list(dict.fromkeys([*tokens.values(), *MARKS[kind]]))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    backend = tokenizers.Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=MERGES))
    words = pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), behavior="isolated")
    split_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, split_bytes])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in special])
    backend.save(str(folder / "tokenizer.json"))
    config = tokens | ({"chat_template": template or TEMPLATES[kind]} if template != "" else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def reference_tokenizer(folder: str) -> PreTrainedTokenizerFast:
    """Return transformers' own tokenizer of a folder."""
    config = json.loads((Path(folder) / "tokenizer_config.json").read_text())
    return PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", **config)


def prepare_chats(
    folder: Path, rows: list[dict[str, Any]], kind: str = "chatml", graded: str | None = None, **settings: Any
) -> tuple[Path, dict[str, Any]]:
    """Prepare rows, written as JSON lines, with the chat template of a kind; return the shards' folder and counts."""
    file, out = folder / "rows.jsonl", folder / f"out{len(list(folder.glob('out*')))}"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    out.mkdir()
    split = settings.pop("split", {"validation": 0.0, "test": 0.0})
    columns = settings.pop("columns", {"messages": "messages"})
    data = DataConfig(files=[str(file)], split=split, columns=columns, **settings)
    model = ModelConfig(path=settings.get("model") or write_chat_tokenizer(folder / kind, kind))
    return out, prepare_shards(data, model, out, graded=graded)


def make_chat_model(folder: Path, kind: str = "chatml", **changes: str) -> ModelConfig:
    """Write a random model of two layers with the tokenizer of a kind; return the section that names it.

    Args:
        changes: special tokens by their names, and fields of config.json.
    """
    named = {name: text for name, text in changes.items() if name.endswith("_token")}
    path, tokens = write_chat_tokenizer(folder, kind, **named), NAMED[kind] | named
    ids = {name: reference_tokenizer(path).convert_tokens_to_ids(text) for name, text in tokens.items()}
    shape: dict[str, Any] = {
        "vocab_size": 280,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    weights = Qwen2ForCausalLM(Qwen2Config(**shape, initializer_range=0.2)).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    dream = {"model_type": "Dream", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu"}
    numbers = {name.replace("_token", "_token_id"): number for name, number in ids.items()}
    fields = {name: value for name, value in changes.items() if name not in named}
    (folder / "config.json").write_text(json.dumps(shape | dream | numbers | fields))
    return ModelConfig(path=path, quantization="none", dtype="float32", device="cpu", threads=1)


def sums(count: int) -> list[dict[str, Any]]:
    """Return conversations of two turns about sums, of which the second user's message confirms the first answer."""
    rows = []
    for n in range(count):
        a, b = n % 10, n // 10
        said = [
            ("user", f"What is {a} + {b}?"),
            ("assistant", f"It is {a + b}."),
            ("user", f"thanks, {a + b} is right. And {a} * {b}?"),
            ("assistant", f"That is \\boxed{{{a * b}}}."),
        ]
        messages = [{"role": role, "content": text} for role, text in said]
        rows.append({"messages": messages, "final": str(a * b)})
    return rows
