# What can be refused before the configuration is read: the package, text of the configuration files, finished targets.
import gc
import sys
from pathlib import Path

gc.set_threshold(200_000, 50, 100)  # a graph of thousands of jobs is no garbage: looking for some took a seventh of -n

MODULE = not workflow.modifier.is_main_snakefile()
MAIN = workflow.is_main_process and not any(argument.startswith("--report") for argument in sys.argv)
RULES = workflow.current_basedir  # the folder of this file, or its address, from which Snakemake fetches single files
HERE = RULES.get_path_or_uri(secret_free=True)

if Path(HERE).is_dir():
    sys.path.insert(0, str(Path(HERE).parents[1] / "src"))
try:
    from dreamtune.errors import UserError
    from dreamtune.workflow import start
except ModuleNotFoundError as error:
    if error.name != "dreamtune":
        raise
    sys.exit(
        f"dreamtune: {HERE} brings the rules and no Python code; install the package of the same version, where "
        "snakemake is installed: pip install git+ADDRESS@VERSION"
    )

DEFAULT = "config/config.yaml"
GIVEN = workflow.config_settings.configfiles or [DEFAULT]  # the configuration's files
if MODULE:  # those of the workflow that uses this one, if it hands its whole configuration over
    GIVEN = list(workflow.configfiles) if config and config is workflow.modifier_stack[0].globals["config"] else []


def say(lines):
    """Print lines for the user."""
    for line in lines:
        print(f"dreamtune: {line}", file=sys.stderr, flush=True)


def stop_at_finished_targets():
    """End with one line if a target on the command line is a finished version, which no rule makes again."""
    if start.finished_targets(sys.argv[1:]):
        from snakemake.cli import get_argument_parser  # which alone knows what of the command line is a target

        start.stop_at_finished(sys.argv[1:], get_argument_parser().parse_args(sys.argv[1:]).targets)


try:
    start.check_rules(HERE, lambda name: workflow.sourcecache.open(RULES.join(name)).read())
    if MODULE:
        start.check_prefix(workflow.modifier.modify_path)
    if MAIN:
        start.check_files(GIVEN)
        stop_at_finished_targets()
except UserError as error:
    sys.exit(f"dreamtune: {error}")
