# What a run ends with: costs of a dry run, the runs that ended without a report, the study of the others, verdicts.
import atexit

from dreamtune.endings.runs import lines_on, note_failures, study_of_finished, with_stopped
from dreamtune.forecast import cost
from dreamtune.rungs.plan import in_words, to_come, with_rungs
from dreamtune.workflow.verdicts import lines_of_finished


def print_cost_of_dry_run():
    """End a dry run with its number of jobs, and the GPU minutes that are known."""
    if not workflow.dryrun or workflow.dag is None or workflow.touch:
        return
    say(lines_on(with_stopped(ENDED, GRIDS), len(LATEST)))
    if jobs := [job for job in workflow.dag.needrun_jobs(exclude_finished=False) if not job.is_norun]:
        known = needed_specs()
        later, published = to_come(PLAN, GRIDS.values(), LATEST, [spec["version"] for spec in known])
        said = cost.cost_of([*known, *later], len(jobs) + len(later) + published).sentence()
        say([f"{cost.runs_in_words(CONFIG)}: {said}", *filter(None, [in_words(GRIDS)])])


def say(lines):
    """Print lines for the user."""
    for line in lines:
        print(f"dreamtune: {line}", file=sys.stderr, flush=True)


def failed_versions():
    """Return stage and version of the jobs that failed in this run for good, their retries included.

    None of them if the run was asked to stop: then nobody knows whether they would have failed.
    """
    scheduler = workflow.scheduler
    jobs = [] if getattr(scheduler, "_user_kill", None) else getattr(scheduler, "failed", [])
    named = [job for job in jobs if "version" in getattr(job, "wildcards", {}).keys()]
    return {(job.rule.name.removesuffix("_part"), job.wildcards.version) for job in named}


def study_what_finished():
    """After jobs failed, make the study of the runs that finished, if all others ended; else say what it waits for.

    The driver makes it itself: Snakemake makes no job whose inputs were to come from a run that ended.
    """
    if not MAIN or not BEGUN:
        return
    try:
        note_failures(failed_versions())
        plan, latest, stages, ended, waits, grids = study_of_finished(CONFIG)
        say(lines_on(with_stopped(ended, grids), len(latest)))
        if waits:
            say([f"the study waits for {waits}; see study.failed in docs/studies.md"])
            return
        plan.freeze()
        write_members(
            RESULTS / "latest", members_of(CONFIG, with_rungs(latest, grids), stages, ended, decided_by(grids))
        )
    except UserError as error:
        say([error])
        return
    for folder in stages:
        if not exists(f"{folder}/manifest.json"):
            shell(
                f"({SETUP}{IN_IMAGE}python3 {SCRIPTS}/{folder.parent.name}.py --out {folder} 2>&1 | tee {folder}/job.log) || true"
            )
    made = all(exists(f"{folder}/manifest.json") for folder in stages)
    others = len(latest) - len(ended)
    of = f"the study of the other {f'{others} runs' if others > 1 else 'run'}"
    say([f"{of} is in {stages[0]}" if made else f"{of} is not made, see {stages[0]}/job.log"])


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
    say(lines_on(with_stopped(ENDED, GRIDS), len(LATEST)) if MAIN else [])


def print_verdicts_if_nothing_was_done():
    """Do the same for a run that found all its targets made: Snakemake then calls neither onstart nor onsuccess."""
    if executes() and not STARTED and len(workflow.dag) == 0:
        print_verdicts()


if not MODULE:  # a workflow that uses this one decides what it ends with
    atexit.register(print_verdicts_if_nothing_was_done)
    if MAIN:
        atexit.register(print_cost_of_dry_run)
