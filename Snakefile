from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/start.smk"


if not workflow.config_settings.configfiles:  # otherwise Snakemake would merge this file into the given ones

    configfile: DEFAULT


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/scatter.smk"
include: "workflow/rules/publish.smk"


if MAIN:  # again: a job that outlived its driver may have finished while the plan was made
    stop_at_finished_targets()


onstart:
    begin()


onsuccess:
    print_verdicts()


rule all:
    default_target: True
    input:
        [f"{folders['report']}/manifest.json" for folders in LATEST.values()],  # a deleted report is made again
        list(MARKERS.values()),
