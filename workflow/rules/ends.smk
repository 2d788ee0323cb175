# What a run ends with: costs of a dry run, the runs that ended without a report, the study of the others, verdicts.
import atexit

from dreamtune.endings.failures import failed_versions, note_failures
from dreamtune.forecast import cost
from dreamtune.rungs.plan import in_words, to_come
from dreamtune.workflow.verdicts import lines_of_finished


def print_cost_of_dry_run():
    """End a dry run with its number of jobs, and the GPU minutes that are known."""
    if not workflow.dryrun or workflow.dag is None or workflow.touch:
        return
    say(RUNS.lines())
    if jobs := needed_jobs():
        known = needed_specs()
        later, published = to_come(PLAN, RUNS.grids.values(), RUNS.latest, [spec["version"] for spec in known])
        said = cost.cost_of([*known, *later], len(jobs) + len(later) + published).sentence()
        say([f"{cost.runs_in_words(CONFIG)}: {said}", *filter(None, [in_words(RUNS.grids)])])


def study_what_finished():
    """After jobs failed, make the study of the runs that finished, if all others ended; else say what it waits for.

    The driver makes it itself: Snakemake makes no job whose inputs were to come from a run that ended.
    """
    if not MAIN or not BEGUN:
        return
    try:
        note_failures(failed_versions(workflow.scheduler))
        again = plan_runs(CONFIG)
        say(again.lines())
        if waits := again.waits():
            say([f"the study waits for {waits}; see study.failed in docs/studies.md"])
            return
        again.freeze()
    except UserError as error:
        say([error])
        return
    for folder in again.stages:
        if not exists(f"{folder}/manifest.json"):
            shell(
                f"({SETUP}{IN_IMAGE}python3 {SCRIPTS}/{folder.parent.name}.py --out {folder} 2>&1 | tee {folder}/job.log) || true"
            )
    made = all(exists(f"{folder}/manifest.json") for folder in again.stages)
    others = len(again.going_on)
    of = f"the study of the other {f'{others} runs' if others > 1 else 'run'}"
    say([f"{of} is in {again.stages[0]}" if made else f"{of} is not made, see {again.stages[0]}/job.log"])


def write_page():
    """Write the page of a study at the end of a run, whatever failed: as a job would, since the driver draws nothing.

    If it cannot be written, the script says so; the run ends as it would have.
    """
    if MAIN and BEGUN:
        shell(f"{SETUP}{IN_IMAGE}python3 {SCRIPTS}/write_page.py || true")


def print_verdicts():
    """End the run with the verdict of each experiment that is finished, and the path of its report."""
    for line in lines_of_finished(RESULTS / "latest", MARKERS) if MAIN else []:
        print(line, flush=True)
    say(RUNS.lines() if MAIN else [])


def print_verdicts_if_nothing_was_done():
    """Do the same for a run that found all its targets made: Snakemake then calls neither onstart nor onsuccess."""
    if executes() and not STARTED and len(workflow.dag) == 0:
        print_verdicts()


if not MODULE:  # a workflow that uses this one decides what it ends with
    atexit.register(print_verdicts_if_nothing_was_done)
    if MAIN:
        atexit.register(print_cost_of_dry_run)
