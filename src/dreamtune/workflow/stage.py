"""One job of the workflow: from its frozen `config.json` to its `manifest.json`, which is written last.

A job works in a private folder and moves its output into the version's folder at the end. Two jobs may make the same
version at the same time: a killed driver leaves its job running, and SLURM requeues the job of a node that it has lost,
where the process may still run. They file one after the other, and what was filed first stands: on a GPU the two may
differ in their last bits, and a version holds the files of one job only.
A version may be made in parts (see `dreamtune.workflow.parts`): a job makes each part, in a folder of the part, with a
`part.json` in place of the manifest. One more job verifies and gathers the parts, and removes them after the manifest
is written.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from dreamtune.device import caches, phases, usage
from dreamtune.digests import describe, mark
from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.inputs.identity import DIGESTS, FileDigests, identify
from dreamtune.interruption import Interrupted, exit_undisturbed
from dreamtune.part import Part
from dreamtune.settings.base import Section
from dreamtune.workflow.code import code_digest
from dreamtune.workflow.demand import demand
from dreamtune.workflow.disk import disk_problem, one_line
from dreamtune.workflow.parts import PARTS, combined_record, folder_of, parts_of, read_part
from dreamtune.workflow.provenance import provenance
from dreamtune.workflow.scratch import ATTEMPTS, private_folder, replace_folder, scratch_folder
from dreamtune.workflow.verification import MANIFEST, UNREAD, read_frozen, remember, sealed, still_read, verify
from dreamtune.writers import age_s, one_at_a_time

S = TypeVar("S", bound=Section)
USUAL_GARBAGE = (700, 10, 10)  # Python's own thresholds; scripts start with higher ones (workflow/scripts/_src.py)


class Stage:
    """Context manager in which a script makes its one library call; it publishes the output and writes the manifest.

    >>> with Stage(__file__, code_before_imports) as stage:
    ...     stage.counts = prepare_shards(stage.section("data", DataConfig), ..., stage.out)

    Attributes:
        folder: the folder of the version or of the part. It outlives a killed job, so checkpoints belong here.
        out: a private, empty folder, on local disk if DREAMTUNE_SCRATCH names one; its content becomes the output.
        counts: rows, drop reasons and other results of the library call, for the manifest.
        part: the part of the version that this job makes; None if it makes or gathers the whole version.
    """

    def __init__(self, script: str, code_before: str, arguments: list[str] | None = None) -> None:
        """Read the command line and the frozen config; exit with one line if the code changed since the planning.

        Args:
            script: the script's `__file__`.
            code_before: the script's code digest, taken before its imports: an edit in between is noticed, too.
            arguments: the command line; None takes sys.argv.
        """
        phases.begin()
        gc.freeze()  # what was imported stays
        gc.set_threshold(*USUAL_GARBAGE)
        self.name = Path(script).stem
        parser = argparse.ArgumentParser(prog=self.name, description=sys.modules["__main__"].__doc__)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--out", type=Path, required=True, help="version folder that holds the frozen config.json")
        parser.add_argument("--part", type=Part.parse, metavar="K/N", help="make only this part, such as 2/7")
        given = parser.parse_args(arguments)
        self.folder: Path = given.out
        self.part: Part | None = given.part
        self.counts: dict[str, Any] = {}
        self.gathered: list[dict[str, Any]] = []
        self.verified: dict[str, Path] = {}
        try:
            self.spec = self._frozen()
            self._check_code(code_before, code_digest(script))
            self._check_part()
        except UserError as error:
            self._stop(error)

    def section(self, name: str, kind: type[S]) -> S:
        """Return a section of the frozen config as an object of type `kind`."""
        values = self.spec["settings"].get(name, {}) | self.spec["runtime"].get(name, {})
        return kind.model_validate(values)

    def optional(self, name: str, kind: type[S]) -> S | None:
        """Return a section of the frozen config as an object of type `kind`; None if there is no such section."""
        return self.section(name, kind) if name in self.spec["settings"] else None

    @phases.phase("verifying")
    def reads(self) -> dict[str, Path]:
        """Verify the versions that this job reads, once; return their folders by name, none of runs that were stopped.

        Only files that the stage reads are hashed (see `verification.UNREAD`). Under torchrun every process verifies
        them: they do so side by side, and none reads a file that another has yet to refuse.

        Raises:
            UserError: one of these versions is not finished, or not what its manifest says.
        """
        unread = UNREAD.get(self.name, {})
        for name, path in (still_read(self.spec["reads"]) | self.spec["order_only"]).items():
            if name not in self.verified:
                folder = Path(path)
                try:
                    verify(folder, unread=unread.get(folder.parent.name, ()))
                except UserError as error:
                    raise UserError(f"{name}: {error}") from None
                self.verified[name] = folder
        return dict(self.verified)

    def parts(self) -> list[Path]:
        """Return the folders of the parts that this job gathers; [] if it makes a part, or the whole version.

        Where another job has gathered them meanwhile, nothing is left to do: the script ends, with status 0.

        Raises:
            UserError: a part is not finished, or was changed after it was written.
        """
        if self.part:
            return []
        folders = [self.folder / folder_of(self.spec, part) for part in parts_of(self.spec)]
        try:
            self.gathered = [read_part(folder, self.spec) for folder in folders]
        except UserError:
            if not self._is_filed():
                raise
            self._say_filed()
            sys.exit(0)
        return folders

    def __enter__(self) -> "Stage":
        try:
            self._check_inputs(list(self.spec["inputs"]))
            scratch = scratch_folder()
            with one_line(self.folder):
                self.beside = private_folder(self.folder, "out-files")
            with one_line(scratch or self.folder):
                self.out = private_folder(scratch, f"dreamtune-{os.getuid()}") if scratch else self.beside
        except UserError as error:
            self._stop(error)
        kept, base = self.spec["runtime"].get("model", {}).get("cache"), self.spec["inputs"].get("model")
        caches.open_caches(kept, base, lambda: identify(["model"], self.spec["runtime"], FileDigests(DIGESTS))["model"])
        return self

    @phases.phase("writing")
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None and os.environ.get("RANK", "0") == "0":  # of several processes only the first writes
                # The model was loaded before, so a change of its folder since then does not cost a finished training.
                self._check_inputs([name for name in self.spec["inputs"] if name != "model"])
                self._file()
                if not self.part:  # the version now holds all that its parts hold
                    shutil.rmtree(self.folder / PARTS, ignore_errors=True)
            error = error and (disk_problem(error, self.folder) or error)
        except UserError as changed:
            error = changed
        except Exception as failed:
            error = disk_problem(failed, self.folder)
            if error is None:
                raise
        finally:
            caches.open_caches(None)
            for folder in {self.out, self.beside}:
                shutil.rmtree(folder, ignore_errors=True)
            exit_undisturbed()
        if isinstance(error, UserError | Interrupted):
            self._stop(error)

    def _stop(self, error: UserError | Interrupted) -> None:
        """Print the error once, also if there are several processes, and exit with status 1.

        Under torchrun a process writes its error to a file, and the launcher prints that of the first process that
        failed. A stop signal reaches the launcher, too, which may end before it prints: then process 0 prints itself.
        """
        file, stopped = os.environ.get("TORCHELASTIC_ERROR_FILE"), isinstance(error, Interrupted)
        if file:
            message = {"message": "" if stopped else str(error), "extraInfo": {"timestamp": str(int(time.time()))}}
            Path(file).write_text(json.dumps({"message": message}))
        if not file or (stopped and os.environ["RANK"] == "0"):
            print(f"{self.name}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)

    def _frozen(self) -> dict[str, Any]:
        spec = read_frozen(self.folder)
        if spec["stage"] != self.name:
            raise UserError(f"{self.folder} is a version of {spec['stage']}; give --out a version of {self.name}")
        return spec

    def _check_code(self, *now: str) -> None:
        planned = self.spec["code"]
        if any(code != planned for code in now):
            raise UserError(
                f"the code changed since version {self.spec['version']} was submitted (code {planned}, now {now[-1]}); "
                "nothing was run; start snakemake again"
            )

    def _check_part(self) -> None:
        """Set `folder` to the part's folder, if this job makes a part; raise a UserError if no such part is planned."""
        if self.part is None:
            return
        planned = parts_of(self.spec)
        if self.part not in planned:
            what = f"in {len(planned)} parts" if planned else "in one piece"
            raise UserError(
                f"there is no part {self.part}: version {self.spec['version']} is now made {what}; start snakemake "
                "again, which plans its parts by the configuration"
            )
        self.folder /= folder_of(self.spec, self.part)

    @phases.phase("identifying")
    def _check_inputs(self, names: list[str]) -> None:
        """Raise a UserError if a named input from outside `results/` changed since the version was planned."""
        digests = FileDigests(DIGESTS)
        now = identify(names, self.spec["runtime"], digests)
        digests.save()  # for the next job, where the driver's memory was lost
        if changed := [name for name in names if now[name] != self.spec["inputs"][name]]:
            raise UserError(
                f"the {changed[0]} changed since version {self.spec['version']} was submitted; nothing was filed; "
                "start snakemake again"
            )

    def _file(self) -> None:
        """Move the output into the version's folder, from a scratch folder through a copy, and write the manifest.

        If another job has filed this version or part meanwhile, say so and leave all as it is.
        """
        if self.out != self.beside:
            shutil.copytree(self.out, self.beside, dirs_exist_ok=True)
        with one_at_a_time(self.folder):
            if self._is_filed():
                self._say_filed()
                return
            names = sorted(item.name for item in self.beside.iterdir())
            for name in names:
                replace_folder(self.beside / name, self.folder / name, aside=self.beside)
            record = self._record()
            self._write_manifest(names, record)
        print(f"{self.name}: {usage.line(record['usage'])}", file=sys.stderr, flush=True)

    def _is_filed(self) -> bool:
        """Return whether there is a manifest (or part.json), and all files are what it says."""
        if not (self.folder / ("part.json" if self.part else MANIFEST)).exists():
            return False
        try:
            read_part(self.folder, self.spec) if self.part else verify(self.folder)
        except UserError:
            return False
        return True

    def _say_filed(self) -> None:
        what = f"version {self.spec['version']}{f', part {self.part}' if self.part else ''}"
        said = f"another job has filed {what} meanwhile; that one stands, and this job's output is discarded"
        print(f"{self.name}: {said}", file=sys.stderr, flush=True)

    def _write_manifest(self, outputs: list[str], record: dict[str, Any]) -> None:
        """Write the manifest (or part.json) of the files on disk; again if another writer replaced one meanwhile."""
        name = "part.json" if self.part else MANIFEST
        for attempt in range(ATTEMPTS):
            try:
                files = [file for name in outputs for file in _files(self.folder / name)]
                before = [mark(file) for file in files]
                entries = {file.relative_to(self.folder).as_posix(): describe(file) for file in files}
                write_json(self.folder / name, sealed(record | {"outputs": entries}))
                if before == [mark(file) for file in files]:
                    found = zip(entries.items(), before, strict=True)
                    remember(self.folder, {file: (seen, entry["sha256"]) for (file, entry), seen in found})
                    return
            except FileNotFoundError:  # another writer is replacing a file just now
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.1)

    def _record(self) -> dict[str, Any]:
        now, wall_s = datetime.now(UTC), age_s()  # two clocks: only the first can be set while the job runs
        record = self.spec | {
            "counts": self.counts,
            "caches": taken.taken if (taken := caches.job_caches()) else {},
            **provenance(),
            "started": (now - timedelta(seconds=wall_s)).isoformat(timespec="seconds"),
            "finished": now.isoformat(timespec="seconds"),
            "wall_s": round(wall_s, 3),
            "phases_s": phases.seconds(),
        }
        record["usage"] = usage.measure(record["wall_s"], *demand(self.spec))
        return record | ({"part": str(self.part)} if self.part else combined_record(record, self.gathered))


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
