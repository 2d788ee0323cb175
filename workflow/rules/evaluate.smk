rule generate_answers:
    input:
        unpack(inputs_of("generate_answers")),
        parts=parts_of("generate_answers"),
    output:
        manifest="results/generate_answers/{version}/manifest.json",
    log:
        "results/generate_answers/{version}/job.log",
    benchmark:
        "results/generate_answers/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("generate_answers"),
    container:
        SIF
    resources:
        **demand("generate_answers"),
        gpu=gpus("generate_answers"),
    params:
        **COMMAND,
        about=about("generate_answers"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/generate_answers.py --out {params.folder} 2>&1 | tee {log}"


rule evaluate_likelihood:
    input:
        unpack(inputs_of("evaluate_likelihood")),
        parts=parts_of("evaluate_likelihood"),
    output:
        manifest="results/evaluate_likelihood/{version}/manifest.json",
    log:
        "results/evaluate_likelihood/{version}/job.log",
    benchmark:
        "results/evaluate_likelihood/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("evaluate_likelihood"),
    container:
        SIF
    resources:
        **demand("evaluate_likelihood"),
        gpu=gpus("evaluate_likelihood"),
    params:
        **COMMAND,
        about=about("evaluate_likelihood"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/evaluate_likelihood.py --out {params.folder} 2>&1 | tee {log}"


rule score_answers:
    input:
        unpack(inputs_of("score_answers")),
    output:
        manifest="results/score_answers/{version}/manifest.json",
    log:
        "results/score_answers/{version}/job.log",
    benchmark:
        "results/score_answers/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("score_answers"),
    container:
        SIF
    resources:
        **demand("score_answers"),
    params:
        **COMMAND,
        about=about("score_answers"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/score_answers.py --out {params.folder} 2>&1 | tee {log}"


rule render_report:
    input:
        unpack(inputs_of("render_report")),
    output:
        html=shown("report.html", "verdict"),
        summary=shown("summary.json", "summary"),
        manifest="results/render_report/{version}/manifest.json",
    log:
        "results/render_report/{version}/job.log",
    benchmark:
        "results/render_report/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("render_report"),
    container:
        SIF
    resources:
        **demand("render_report"),
    params:
        **COMMAND,
        about=about("render_report"),
        folder=subpath(output.manifest, parent=True),
        experiment=experiment_of,
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/render_report.py --out {params.folder} 2>&1 | tee {log}"


rule study:
    input:
        unpack(inputs_of("study")),
    output:
        manifest="results/study/{version}/manifest.json",
    log:
        "results/study/{version}/job.log",
    benchmark:
        "results/study/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("study"),
    container:
        SIF
    resources:
        **demand("study"),
    params:
        **COMMAND,
        about=about("study"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/study.py --out {params.folder} 2>&1 | tee {log}"


rule confirm:
    input:
        unpack(inputs_of("confirm")),
    output:
        manifest="results/confirm/{version}/manifest.json",
    log:
        "results/confirm/{version}/job.log",
    benchmark:
        "results/confirm/{version}/benchmark.tsv"
    wildcard_constraints:
        version=versions_of("confirm"),
    container:
        SIF
    resources:
        **demand("confirm"),
    params:
        **COMMAND,
        about=about("confirm"),
        folder=subpath(output.manifest, parent=True),
    message:
        "{params.about}"
    shell:
        "{params.setup}python3 {params.scripts}/confirm.py --out {params.folder} 2>&1 | tee {log}"
