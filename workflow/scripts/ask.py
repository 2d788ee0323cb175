"""Answer questions on the terminal, with the base or a tuned model.

reads   the base model, the weights of a training, and the template and sampler settings of a published experiment
writes  nothing
usage   python workflow/scripts/ask.py --adapter results/latest/demo --prompt "2 + 3 = ?"
        python workflow/scripts/ask.py --model FOLDER --template "Question: {question}\\n{answer}" --prompt "…"
"""

import argparse
import sys

import _src  # noqa: F401, puts src on the path

from dreamtune.generate.ask import add_arguments, ask

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    sys.exit(ask(parser.parse_args()))
