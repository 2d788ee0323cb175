# The entry point in this folder. Workflows elsewhere take workflow/Snakefile as a module: README.md, "In your own workflow".
include: "workflow/Snakefile"


workflow.default_target = "all"  # which Snakemake forgets at the end of an included file
