"""What the workflow costs beside its stages: the demo's wall time less the sum of its manifests' `wall_s`.

A manifest counts from the start of its process, so what is left is Snakemake: its start, its plan, starting jobs,
waiting for their end; on a cluster also the queue and the two Snakemake processes of each job on the node.

usage   python benchmarks/overhead.py --check
        python benchmarks/overhead.py -- --workflow-profile profiles/slurm --jobs 1      (one job at a time, on SLURM)
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "src", "profiles", "config", "resources", "containers/requirements.lock")
MOST = 0.15  # of the local run's wall time


def main() -> int:
    """Print one line of JSON; with --check return 1 where more than 15 % of the wall time is no stage's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", default="config/demo.yaml", help="configuration to run")
    parser.add_argument("--work", type=Path, help="new folder for the copy that runs, kept; default: a temporary one")
    parser.add_argument("--check", action="store_true", help="exit with 1 above 15 %% of the wall time")
    parser.add_argument("snakemake", nargs="*", default=["--cores", "1"], help="after --: arguments of snakemake")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary) / "project"
        measured = measure(folder, [*arguments.snakemake, "--configfile", arguments.configfile])
    print(json.dumps(measured))
    return int(arguments.check and measured["share"] > MOST)


def measure(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Run everything once in a new copy of the project; return the seconds, and what of them no stage took."""
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / part).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / part, folder / part)
    started = time.monotonic()
    command = [sys.executable, "-m", "snakemake", *arguments, "--quiet", "all"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    wall_s = time.monotonic() - started
    manifests = [json.loads(path.read_text()) for path in folder.glob("results/*/*/manifest.json")]
    stages_s = sum(manifest["wall_s"] for manifest in manifests)
    left_s = wall_s - stages_s
    return {
        "wall_s": round(wall_s, 1),
        "stages_s": round(stages_s, 1),
        "stages": len(manifests),
        "share": round(left_s / wall_s, 4),
        "left_s_per_stage": round(left_s / len(manifests), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
