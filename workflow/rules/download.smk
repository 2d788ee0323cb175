# Both rules are local, because only the machine that runs snakemake needs internet: jobs on nodes read the hub's cache.
rule download_source:  # runs before the jobs that read the source; its marker is temporary, so each call looks again
    output:
        temp("results/downloads/{source}"),
    log:
        "results/downloads/{source}.log",
    wildcard_constraints:
        source=start.DIGEST,
    localrule: True
    container:
        SIF
    params:
        **COMMAND,
        source=lambda w: SOURCES[w.source],
        models=lambda w: models_from(CONFIG, SOURCES[w.source]),
        columns=lambda w: columns_of([SOURCES[w.source]]),
    message:
        "Fetch {params.source} from the hub"
    shell:
        "{params.setup}python3 {params.scripts}/download.py --out {output} {params.source:q} {params.columns:q}"
        " --models {params.models:q} 2>&1 | tee {log}"


rule download:  # only on request; fetches all sources, also those that finished jobs have read
    log:
        "results/downloads/all.log",
    localrule: True
    container:
        SIF
    params:
        **COMMAND,
        sources=list(SOURCES.values()),
        models=[model for source in SOURCES.values() for model in models_from(CONFIG, source)],
        columns=columns_of(SOURCES.values()),
    message:
        "Fetch all models and data files that the configuration takes from the hub"
    shell:
        "{params.setup}python3 {params.scripts}/download.py {params.sources:q} {params.columns:q} --models {params.models:q}"
        " 2>&1 | tee {log}"
