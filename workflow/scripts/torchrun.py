"""Run torchrun, and report a failure in one line: the error of the process that failed first.

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
    logging.disable()  # else torch reports every process that it ends, at length
    parser = get_args_parser()
    parser.description = __doc__
    # Stop signals are passed on to the processes, which have 600 s to write a checkpoint, or less if SLURM kills first.
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
