# What can be refused before the configuration is read: folder, text of the configuration files, finished targets.
import sys
from pathlib import Path

sys.path.insert(0, f"{workflow.basedir}/src")
from dreamtune.errors import UserError
from dreamtune.workflow import start

MAIN = workflow.is_main_process and not any(argument.startswith("--report") for argument in sys.argv)
DEFAULT = "config/config.yaml"
GIVEN = workflow.config_settings.configfiles or [DEFAULT]  # the configuration's files


def stop_at_finished_targets():
    """End with one line if a target on the command line is a finished version, which no rule makes again."""
    if start.finished_targets(sys.argv[1:]):
        from snakemake.cli import get_argument_parser  # which alone knows what of the command line is a target

        start.stop_at_finished(sys.argv[1:], get_argument_parser().parse_args(sys.argv[1:]).targets)


try:
    if MAIN:
        start.check_place(Path(workflow.basedir))
        start.check_files(GIVEN)
        stop_at_finished_targets()
except UserError as error:
    sys.exit(f"dreamtune: {error}")
