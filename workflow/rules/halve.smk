checkpoint halve:  # local, so that no node's Snakemake needs to know which jobs a decision asks for
    input:
        unpack(inputs_of("halve")),
    output:
        manifest="results/halve/{version}/manifest.json",
    log:
        "results/halve/{version}/job.log",
    benchmark:
        "results/halve/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("halve"),
    localrule: True
    container:
        SIF
    params:
        **COMMAND,
        about=about("halve"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/halve.py --out {params.folder} 2>&1 | tee {log}"
