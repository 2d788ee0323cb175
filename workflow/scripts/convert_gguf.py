"""Write the model in a GGUF file as a folder that model.path can name. Needs the package gguf: pip install gguf.

reads   a GGUF file of a Qwen2 or Llama model, quantised or not
writes  FOLDER: config.json, model.safetensors with the weights unpacked, tokenizer
usage   python workflow/scripts/convert_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2
"""

import argparse
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.errors import UserError
from dreamtune.model.gguf import convert_gguf

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the GGUF file")
    parser.add_argument("folder", type=Path, help="folder that is made")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the weights")
    arguments = parser.parse_args()
    try:
        print(convert_gguf(arguments.file, arguments.folder, arguments.dtype))
    except UserError as error:
        sys.exit(f"convert_gguf: {error}")
