"""torchrun, which says in one line why its processes ended: what the first one that failed had to say.

usage   python workflow/scripts/torchrun.py --standalone --nproc-per-node 2 workflow/scripts/train_adapter.py --out …
"""

import logging
import sys
from pathlib import Path

import _src  # noqa: F401, puts src on the path
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import get_args_parser, run

from dreamtune.device.gpus import show_gpus

if __name__ == "__main__":
    logging.disable()  # the launcher's own account of every process it ends
    parser = get_args_parser()
    parser.description = __doc__
    # What asks a training to stop is passed on to the processes; SLURM kills before the 600 s to save in if it must.
    parser.set_defaults(signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", shutdown_timeout=600)
    options = parser.parse_args()
    name = Path(options.training_script).stem
    show_gpus(int(options.nproc_per_node))
    try:
        run(options)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        ended = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit status {failure.exitcode}"
        reason = failure.error_file_data.get("message")
        said = reason["message"] if isinstance(reason, dict) else f"process {rank} ended with {ended}"
        sys.exit(f"{name}: {said}" if said else 1)
    except RendezvousError as error:
        sys.exit(f"{name}: the nodes did not find each other at {options.rdzv_endpoint}: {error}")
    except SignalException as error:
        sys.exit(128 + error.sigval)
