# Jobs that each make one part of a version (`scatter` in the configuration); the stage's rule then gathers the parts.
for STAGE in SECTIONS:

    rule:
        name:
            f"{STAGE}_part"
        input:
            unpack(inputs_of(STAGE)),
        output:
            done=f"results/{STAGE}/{{version}}/parts/{{cut}}/{{part}}-of-{{parts}}/part.json",
        log:
            f"results/{STAGE}/{{version}}/parts/{{cut}}/{{part}}-of-{{parts}}/job.log",
        wildcard_constraints:
            version=versions_of(STAGE),
            cut=start.DIGEST,
        container:
            SIF
        resources:
            **demand(STAGE),
            gpu=gpus(STAGE, part=True),
        params:
            **COMMAND,
            about=about(STAGE),
            stage=STAGE,
            folder=subpath(output.done, ancestor=4),
        message:
            "{params.about}, part {wildcards.part} of {wildcards.parts}"
        shell:
            "{params.setup}python3 {params.scripts}/{params.stage}.py --out {params.folder} --part {wildcards.part}/{wildcards.parts} 2>&1 | tee {log}"
