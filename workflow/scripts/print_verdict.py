"""Print where each experiment's report is, and its verdict in one line.

reads   results/latest/EXPERIMENT/summary.json
usage   python workflow/scripts/print_verdict.py demo demo-copy
"""

import argparse
import json
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of finished experiments")
    for name in parser.parse_args().experiments:
        folder = Path("results/latest") / name
        summary = json.loads((folder / "summary.json").read_text())
        print(f"{name}: {summary['verdict']}. {summary['sentence']}\n  {folder / 'report.html'}")
