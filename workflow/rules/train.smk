rule train_adapter:
    input:
        unpack(inputs_of("train_adapter")),
    output:
        manifest="results/train_adapter/{version}/manifest.json",
    log:
        "results/train_adapter/{version}/job.log",
    benchmark:
        "results/train_adapter/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("train_adapter"),
    container:
        of_version("train_adapter", lambda spec: SIF if launch.processes(spec)[1] == 1 else None)
    threads: of_version("train_adapter", lambda spec: launch.processes(spec)[0])
    resources:
        **demand("train_adapter"),
        **NODES,
        gpu=gpus("train_adapter"),
    params:
        **COMMAND,
        about=about("train_adapter"),
        folder=subpath(output.manifest, parent=True),
        launch=of_version("train_adapter", lambda spec: launch.training_command(spec, SCRIPTS, IN_IMAGE)),
    message:
        "{params.about}"
    shell:
        # A stop signal reaches every process of the job. The shell's empty trap lets it wait for the training, and
        # `tee` ignores the signal, so that logging goes on until the checkpoint is written.
        "{params.setup}"
        "trap : TERM USR1; {params.launch} {params.scripts}/train_adapter.py --out {params.folder} 2>&1"
        " | (trap '' TERM USR1 INT; tee {log})"


rule merge_adapter:
    input:
        unpack(inputs_of("merge_adapter")),
    output:
        manifest="results/merge_adapter/{version}/manifest.json",
    log:
        "results/merge_adapter/{version}/job.log",
    benchmark:
        "results/merge_adapter/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("merge_adapter"),
    container:
        SIF
    resources:
        **demand("merge_adapter"),
        gpu=gpus("merge_adapter"),
    params:
        **COMMAND,
        about=about("merge_adapter"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/merge_adapter.py --out {params.folder} 2>&1 | tee {log}"


rule merge:
    input:
        [unless_stopped(name, [f"{folder}/manifest.json"]) for name, folder in MERGED.items()],
