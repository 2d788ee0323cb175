rule publish:  # local: the links must be the plan this driver made, not one re-parsed on a node
    input:
        lambda w: [ancient(f"{folder}/manifest.json") for folder in LATEST[w.experiment].values()],
    output:
        "results/latest/{experiment}/.published-{marker}",
    log:
        "results/latest/{experiment}/.published-{marker}.log",
    localrule: True
    params:
        links=lambda w: LINKS[w.experiment],
    message:
        "Point results/latest/{wildcards.experiment} at its newest results"
    shell:
        "python3 workflow/scripts/publish.py --out {output} {params.links} 2>&1 | tee {log}"
