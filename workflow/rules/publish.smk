rule publish:  # local, because only the driver has the plan: on a node the configuration is not read
    input:
        lambda w: [ancient(f"{folder}/manifest.json") for folder in LATEST[w.experiment].values()],
    output:
        "results/latest/{experiment}/.published-{marker}",
    log:
        "results/latest/{experiment}/.published-{marker}.log",
    localrule: True
    params:
        links=lambda w: LINKS[w.experiment],
        configuration=start.named(GIVEN),
    message:
        "Point results/latest/{wildcards.experiment} at its newest results"
    shell:
        "python3 workflow/scripts/publish.py --out {output} --configuration {params.configuration:q} {params.links} 2>&1 | tee {log}"
