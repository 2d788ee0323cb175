"""What `pip install` puts into the package: the library, and beside it the files that a workflow elsewhere needs.

Snakemake fetches a remote module's rules file by file, so scripts, rules and the lock come with the package, at the
paths below `dreamtune/` that they have below the project's folder (`dreamtune.workflow.code.ROOT`).
"""

from setuptools import find_packages, setup

BESIDE = {
    "dreamtune.workflow.scripts": "workflow/scripts",
    "dreamtune.workflow.rules": "workflow/rules",
    "dreamtune.containers": "containers",
}

setup(
    packages=[*find_packages("src"), *BESIDE],
    package_dir={"": "src"} | BESIDE,
    package_data={"": ["*.j2", "*.css", "*.js", "*.smk"], "dreamtune.containers": ["requirements.lock"]},
    include_package_data=False,
)
