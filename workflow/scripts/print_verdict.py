"""Print each experiment's verdict in one line, and the path of its report.

reads   results/latest/EXPERIMENT/summary.json
usage   python workflow/scripts/print_verdict.py demo demo-copy
"""

import argparse
import json
from pathlib import Path
from typing import Any


def describe(name: str, summary: dict[str, Any]) -> str:
    """Return the verdict in one line, and in a second one two figures that do not decide it.

    These are the accuracy by the last number anywhere in an answer, and the training loss.
    """
    lenient, training = summary["lenient"], summary["training"]
    beside = []
    if lenient["base"]["value"] is not None:
        beside.append(f"last number anywhere {lenient['base']['value']:.1%} → {lenient['tuned']['value']:.1%}")
    if training.get("last_loss") is not None:
        beside.append(f"training loss {training['first_loss']:.4f} → {training['last_loss']:.4f}")
    return "\n  ".join([f"{name}: {summary['sentence']}", *(["; ".join(beside)] if beside else [])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of finished experiments")
    for name in parser.parse_args().experiments:
        folder = Path("results/latest") / name
        print(describe(name, json.loads((folder / "summary.json").read_text())))
        print(f"  {folder / 'report.html'}")
