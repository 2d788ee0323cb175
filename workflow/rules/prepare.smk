rule prepare_shards:
    input:
        unpack(inputs_of("prepare_shards")),
        parts=parts_of("prepare_shards"),
    output:
        manifest="results/prepare_shards/{version}/manifest.json",
    log:
        "results/prepare_shards/{version}/job.log",
    benchmark:
        "results/prepare_shards/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("prepare_shards"),
    container:
        SIF
    resources:
        **demand("prepare_shards"),
    params:
        **COMMAND,
        about=about("prepare_shards"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/prepare_shards.py --out {params.folder} 2>&1 | tee {log}"


rule audit_references:
    input:
        unpack(inputs_of("audit_references")),
    output:
        manifest="results/audit_references/{version}/manifest.json",
    log:
        "results/audit_references/{version}/job.log",
    benchmark:
        "results/audit_references/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("audit_references"),
    container:
        SIF
    resources:
        **demand("audit_references"),
    params:
        **COMMAND,
        about=about("audit_references"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/audit_references.py --out {params.folder} 2>&1 | tee {log}"


rule audit_contamination:
    input:
        unpack(inputs_of("audit_contamination")),
    output:
        manifest="results/audit_contamination/{version}/manifest.json",
    log:
        "results/audit_contamination/{version}/job.log",
    benchmark:
        "results/audit_contamination/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("audit_contamination"),
    container:
        SIF
    resources:
        **demand("audit_contamination"),
    params:
        **COMMAND,
        about=about("audit_contamination"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/audit_contamination.py --out {params.folder} 2>&1 | tee {log}"
