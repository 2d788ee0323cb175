"""What is checked when `snakemake` starts, besides the configuration: its files, rules, targets, GPU. Torch-free.

Snakemake parses the Snakefile in a dry run too, so what is found here is said by `snakemake -n`.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.config_file import read_file
from dreamtune.errors import UserError
from dreamtune.workflow.code import ROOT
from dreamtune.workflow.plan import RESULTS

DIGEST = "[0-9a-f]{12}"  # what `dreamtune.digests.digest` returns, such as versions
OUTPUT = re.compile(rf"(\./)?results/\w+/{DIGEST}/(manifest\.json|report\.html|summary\.json)")
RUN_A_MODEL = ("train_adapter", "generate_answers", "evaluate_likelihood", "merge_adapter")
# Files that exist where there is a driver of a GPU: NVIDIA, NVIDIA in WSL, AMD.
DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", "/dev/kfd")


def check_rules(here: str, read: Callable[[str], str]) -> None:
    """Check that rules which Snakemake fetched from elsewhere are those of this package.

    Args:
        here: folder of the rules, or their address.
        read: returns the text of a file in it by its name; it may raise any error if there is none. Line ends at the
            end do not count, because Snakemake loses them when it reads from git.

    Raises:
        UserError: they are of another version.
    """
    ours = ROOT / "workflow" / "rules"
    if Path(here).is_dir() and Path(here).samefile(ours):
        return
    for path in sorted(ours.glob("*.smk")):
        try:
            same = read(path.name).rstrip() == path.read_text(encoding="utf-8").rstrip()
        except Exception:
            same = False
        if not same:
            raise UserError(
                f"{here}/{path.name} is not that of the package dreamtune in {ROOT}; install the package of the same "
                "version, where snakemake is installed: pip install git+ADDRESS@VERSION"
            )


def check_prefix(modified: Callable[[str], str]) -> None:
    """Check that a module leaves the results where the plan has them.

    Args:
        modified: returns a path as the module's `prefix` or `replace_prefix` makes it.

    Raises:
        UserError: it is another path.
    """
    if (path := modified(f"{RESULTS}/report")) != f"{RESULTS}/report":
        raise UserError(
            f"the module's prefix turns {RESULTS}/report into {path}, and dreamtune works in {RESULTS}/ alone; leave "
            "the prefix out, and call snakemake with --directory FOLDER to have the results there"
        )


def check_files(files: Iterable[str | Path]) -> None:
    """Check the text of each configuration file that Snakemake has loaded; see `dreamtune.config_file`.

    Raises:
        UserError: a key is given twice, or a number is not read as it is written; or the file is a result, because
            a target that stands behind --configfile is taken for a configuration.
    """
    for path in map(_short, files):
        if path.parts[0] == RESULTS.name:
            raise UserError(
                f"{path} stands behind --configfile, which takes all that follows it for configurations; name targets "
                "before it: snakemake TARGET --configfile FILE"
            )
        read_file(path)


def named(files: Iterable[str | Path]) -> str:
    """Return the names of the configuration's files in one text, relative to the work folder where they lie in it."""
    return " ".join(str(_short(file)) for file in files)


def _short(file: str | Path) -> Path:
    return Path(file).relative_to(Path.cwd()) if Path(file).is_relative_to(Path.cwd()) else Path(file)


def finished_targets(arguments: Sequence[str]) -> list[str]:
    """Return those of Snakemake's arguments that are outputs of finished versions, which no rule makes again."""
    outputs = [a for a in arguments if OUTPUT.fullmatch(a) and Path(a).exists()]
    return [a for a in outputs if (Path(a).parent / "manifest.json").exists()]


def stop_at_finished(arguments: Sequence[str], targets: Iterable[str]) -> None:
    """End the process with one line if targets are finished: with status 0 if all of them are, else with 1.

    Args:
        arguments: Snakemake's arguments.
        targets: those of them that are targets.
    """
    finished = finished_targets(arguments)
    if rest := [target for target in targets if target not in finished]:
        sys.exit(f"dreamtune: {finished[0]} is finished already; leave it out, and name only {' '.join(rest)}")
    folder = Path(finished[0]).parent
    print(
        f"dreamtune: {finished[0]} is finished, nothing to be done; to make it again, delete {folder}", file=sys.stderr
    )
    sys.exit(0)


def check_arrays(settings: object) -> None:
    """Check that parts are not submitted as SLURM job arrays, of which the executor loses results.

    Args:
        settings: of Snakemake's executor; only SLURM's has `array_jobs`.

    Raises:
        UserError: `slurm-array-jobs` is set.
    """
    if rules := getattr(settings, "array_jobs", None):
        raise UserError(
            f"slurm-array-jobs is {rules!r}, and in an array Snakemake's SLURM executor (2.6 to 2.8) deletes finished "
            "parts when the array's first is slower or another fails; leave it out: parts are jobs of their own "
            "(docs/cluster.md, Parts)"
        )


def has_gpu() -> bool:
    """Return whether this machine has a GPU that jobs may use, by its driver's files and CUDA_VISIBLE_DEVICES."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path(driver).exists() for driver in DRIVERS)


def gpu_setting(spec: Mapping[str, Any]) -> str | None:
    """Return the setting for which a version's job needs a GPU; None if it also runs on a CPU.

    >>> gpu_setting({"stage": "merge_adapter", "settings": {}, "runtime": {"model": {"device": "cuda"}}})
    'model.device is cuda'
    """
    device = spec["runtime"].get("model", {}).get("device", "cpu")
    if spec["stage"] not in RUN_A_MODEL or device == "cpu":
        return None
    if device == "cuda":
        return "model.device is cuda"
    if memory := spec["runtime"].get("train", {}).get("memory_gib"):
        return f"train.memory_gib is {memory:g}, as in a preset for a GPU"
    paged = spec["settings"].get("train", {}).get("optimizer") == "paged_adamw_8bit"
    return "train.optimizer is paged_adamw_8bit" if paged else None


def missing_gpu(specs: Iterable[Mapping[str, Any]]) -> str | None:
    """Return one line if jobs of these versions need a GPU and this machine has none; None otherwise."""
    settings = list(dict.fromkeys(filter(None, map(gpu_setting, specs))))
    if not settings or has_gpu():
        return None
    return (
        f"{settings[0]}, and this machine has no GPU; leave that out (model.device: cpu runs everything on the CPU), "
        "or run on a machine with one, or through --workflow-profile profiles/slurm"
    )


def shared_gpus(specs: Iterable[Mapping[str, Any]], offered: int | None) -> str | None:
    """Return one line if jobs may run on this machine's GPU at the same time, None otherwise.

    Args:
        specs: specifications of the versions that will be made.
        offered: the run's `gpu` resource; None if there is no limit.
    """
    takers = [s for s in specs if s["stage"] in RUN_A_MODEL and s["runtime"]["model"]["device"] != "cpu"]
    if len(takers) < 2 or offered is not None or not has_gpu():
        return None
    return (
        "nothing limits the resource gpu, so that jobs may share a GPU and its memory; call with --resources gpu=1, or "
        "copy dreamtune's profiles/ into this folder"
    )
