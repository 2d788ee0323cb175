"""A real SLURM on this machine: slurmctld, a slurmd per node and munge, with fake GPUs and without slurmdbd.

usage   python tests/cluster/local_slurm.py start|stop|status [--folder FOLDER] [--nodes 1] [--gpus 2]   (root, Debian)

Everything it writes lies in FOLDER, but for slurm.conf and gres.conf: they must stand in /etc/slurm, as Snakemake's
executor deletes SLURM_CONF before it submits. A SLURM that this script did not configure is left alone.
Partitions: main; preemptable and preemptable-grace (requeued at once, or 10 s after a SIGTERM) and urgent, which
preempts them. Memory is enforced by sampling; there are no cgroups.
"""

import argparse
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
LONGEST = 107  # characters in the name of a Unix socket
TURN = Path("/var/tmp/local-slurm.lock")  # held while there is one: a machine takes one at a time
MARK = "# made by local_slurm.py for tests; its state lies in "
PACKAGES = ("slurm-wlm", "munge")
DAEMONS = ("slurmd", "slurmctld", "munged")

SLURM_CONF = """{mark}{folder}
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=27817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# No database: who was run, and how it ended, is known to slurmctld alone, for MinJobAge seconds.
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=7200
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
KillWait=5
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{node_lines}
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=1-0
PartitionName=main Default=YES PriorityTier=1 PreemptMode=OFF
PartitionName=preemptable PriorityTier=1 PreemptMode=REQUEUE
PartitionName=preemptable-grace PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory_mb} "
    "Gres=gpu:fake:{gpus} State=UNKNOWN"
)
GRES_CONF = "{mark}{folder}\nNodeName={names} Name=gpu Type=fake File={folder}/gpu[0-{last}]\n"


class LocalSlurm:
    """`with LocalSlurm(folder) as slurm:` a SLURM that is up; it waits until another test process has ended its own."""

    def __init__(self, folder: Path, gpus: int = 2, nodes: int = 1) -> None:
        """`gpus` are those of a node; each of `nodes` has this machine's cores, and an equal part of its memory."""
        self.folder, self.gpus = folder.resolve(), gpus
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]

    def __enter__(self) -> "LocalSlurm":
        self._turn = TURN.open("w")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._turn.close()

    def start(self) -> None:
        """Install SLURM where it is missing, configure and start it, and wait until its nodes are idle.

        Raises:
            RuntimeError: not root, another SLURM is configured here, or a node does not come up.
        """
        if os.geteuid() != 0:
            raise RuntimeError("a SLURM of one's own needs root: its daemons and its fake GPUs' device files do")
        self._refuse_another()
        _install()
        self._configure()
        munge = self.folder / "munge"
        files = {"key": "key", "socket": "socket", "seed": "seed", "log": "log"}
        options = [f"--{name}-file={munge / file}" for name, file in files.items() if name != "socket"]
        _run("munged", "--force", *options, f"--socket={munge / 'socket'}", f"--pid-file={self.folder / 'munged.pid'}")
        _run("slurmctld", "-c")
        for node in self.nodes:
            _run("slurmd", "-N", node)
        states = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
        _wait(lambda: set(_run(*states).split()) == {"idle"}, 60, f"a node is not idle; see {self.folder}/*.log")

    def stop(self) -> None:
        """Cancel what runs, stop the daemons and take the configuration away."""
        running = self.running()
        if "slurmctld" in running:
            _run("scancel", "--user=root", check=False)
        for daemon in sorted(running, reverse=True):  # the nodes first, then slurmctld, then munged
            os.kill(pid := running[daemon], signal.SIGTERM)
            _wait(lambda pid=pid: not psutil.pid_exists(pid), 30, f"{daemon} does not stop")
        for name in ("slurm.conf", "gres.conf"):
            if (ETC / name).exists() and (ETC / name).read_text().startswith(f"{MARK}{self.folder}\n"):
                (ETC / name).unlink()

    def running(self) -> dict[str, int]:
        """Return the process of each daemon that runs, by the name of its file: slurmd-node1, slurmctld, munged."""
        found = {path.stem: int(path.read_text() or 0) for path in self.folder.glob("*.pid")}
        return {
            daemon: pid
            for daemon, pid in found.items()
            if pid and psutil.pid_exists(pid) and psutil.Process(pid).name() == daemon.partition("-")[0]
        }

    def jobs(self) -> list[dict[str, str]]:
        """Return what `scontrol show job` says of every job since the start, finished ones too, in order."""
        lines = _run("scontrol", "--oneliner", "show", "job").splitlines()
        found = [dict(re.findall(r"(\w[\w:/]*)=(\S*)", line)) for line in lines]
        return sorted((job for job in found if "JobId" in job), key=lambda job: int(job["JobId"]))

    def _refuse_another(self) -> None:
        path = ETC / "slurm.conf"
        if not path.exists():
            return
        first = path.read_text().splitlines()[:1]
        if not first or not first[0].startswith(MARK):
            raise RuntimeError(f"{path} belongs to another SLURM and is left alone; use a machine without one")
        other = LocalSlurm(Path(first[0].removeprefix(MARK)))
        if other.running():
            raise RuntimeError(f"one runs already; {Path(__file__).name} stop --folder {other.folder} ends it")

    def _configure(self) -> None:
        socket_of_a_job = self.folder / f"spool-{self.nodes[-1]}" / f"{self.nodes[-1]}_99999.{2**32}"
        if len(str(socket_of_a_job)) > LONGEST:
            raise RuntimeError(
                f"no job could start: {socket_of_a_job} is too long for a socket; give a shorter --folder"
            )
        for name in ("state", "munge", *(f"spool-{node}" for node in self.nodes)):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        for folder in (self.folder, *self.folder.parents):  # munged insists that nobody else can write there
            if folder.stat().st_mode & 0o022 and not folder.stat().st_mode & 0o1000:
                raise RuntimeError(f"others can write to {folder}; give a --folder where they cannot")
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o755)
        key = self.folder / "munge/key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        for number in range(self.gpus):  # a device like /dev/null: SLURM counts it and sets CUDA_VISIBLE_DEVICES
            device = self.folder / f"gpu{number}"
            if not device.exists():
                os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        values = {"mark": MARK, "folder": self.folder, "host": socket.gethostname().partition(".")[0]}
        values |= {"names": ",".join(self.nodes), "gpus": self.gpus, "last": self.gpus - 1}
        values |= {"memory_mb": int(psutil.virtual_memory().total * 0.9 / 2**20 / len(self.nodes))}
        nodes = enumerate(self.nodes, 27818)
        lines = [NODE.format(name=name, port=port, cpus=os.cpu_count(), **values) for port, name in nodes]
        values["node_lines"] = "\n".join(lines)
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(SLURM_CONF.format(**values))
        (ETC / "gres.conf").write_text(GRES_CONF.format(**values))


def _install() -> None:
    if all(shutil.which(name) for name in (*DAEMONS, "sbatch", "srun")):
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "--quiet", "--quiet", *arguments], check=True, env=environment)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _wait(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/local-slurm"))
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=2)
    given = parser.parse_args()
    slurm = LocalSlurm(given.folder, given.gpus, given.nodes)
    try:
        slurm.stop() if given.action == "stop" else slurm.start() if given.action == "start" else None
        print("stopped" if given.action == "stop" else _run("sinfo", "--Node", "--format=%N %P %T %c %m %G"))
    except RuntimeError as error:
        sys.exit(f"local_slurm: {error}")
