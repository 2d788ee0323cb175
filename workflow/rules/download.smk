# Both rules are local: where snakemake runs there is internet, jobs on a node read the hub's cache and nothing else.
rule download_source:  # before the first job that reads it; a temporary marker, so that each call looks again
    output:
        temp("results/downloads/{source}"),
    log:
        "results/downloads/{source}.log",
    localrule: True
    params:
        source=lambda w: SOURCES[w.source],
    message:
        "Fetch {params.source} from the hub"
    shell:
        "python3 workflow/scripts/download.py --out {output} {params.source:q} 2>&1 | tee {log}"


rule download:  # on request, whatever is finished
    log:
        "results/downloads/all.log",
    localrule: True
    params:
        sources=list(SOURCES.values()),
    message:
        "Fetch what the configuration names on the hub"
    shell:
        "python3 workflow/scripts/download.py {params.sources:q} 2>&1 | tee {log}"
