rule publish:  # local, because only the driver has the plan: on a node the configuration is not read
    input:
        lambda w: [ancient(f"{folder}/manifest.json") for folder in REPORTED[w.experiment].values()],
    output:
        "results/latest/{experiment}/.published-{marker}",
    log:
        "results/latest/{experiment}/.published-{marker}.log",
    wildcard_constraints:
        marker=one_of(m.rpartition("-")[2] for m in MARKERS.values() if not exists(m)) if MAIN else start.DIGEST,
    localrule: True
    container:
        SIF
    params:
        **COMMAND,
        links=lambda w: LINKS[w.experiment],
        configuration=start.named(GIVEN),
    message:
        "Point results/latest/{wildcards.experiment} at its newest results"
    shell:
        "{params.setup}python3 {params.scripts}/publish.py --out {output} --configuration {params.configuration:q} {params.links} 2>&1 | tee {log}"
