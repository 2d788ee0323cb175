"""Write docs/licences.csv: the licence of each distribution that the lock pins, as its own metadata states it.

usage   python containers/licences.py    in the environment of containers/requirements.lock, as `make licences` does
"""

import argparse
import csv
import io
import re
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, TABLE = ROOT / "containers/requirements.lock", ROOT / "docs/licences.csv"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def pinned(lock: str) -> dict[str, str]:
    """Return the versions of a lock's distributions by name, without a local part such as +cpu.

    >>> pinned("# by pip-compile\\nnumpy==2.4.6    # via scipy\\ntorch==2.13.0\\n")
    {'numpy': '2.4.6', 'torch': '2.13.0'}
    """
    return dict(PINNED.findall(lock))


def licence(found: PackageMetadata) -> str:
    """Return the licence that a distribution states: its SPDX expression, else its classifiers, else its free text.

    Raises:
        ValueError: it states none.
    """
    if expression := found.get("License-Expression"):
        return expression
    classifiers = [c.split("::")[-1].strip() for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    if stated := "; ".join(classifiers) or (found.get("License") or "").strip().split("\n")[0]:
        return stated
    raise ValueError(f"{found['Name']} states no licence in its metadata; read its LICENSE file, and add it to STATED")


# Distributions whose metadata states no licence, read from the LICENSE file that they bring.
STATED = {
    "axe-playwright-python": "MIT; bundles axe-core, MPL-2.0",
    "conda-inject": "MIT",
    "snakemake-interface-common": "MIT",
    "snakemake-interface-logger-plugins": "MIT",
    "snakemake-interface-report-plugins": "MIT",
    "snakemake-interface-scheduler-plugins": "MIT",
    "snakemake-interface-storage-plugins": "MIT",
}


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["distribution", "version", "licence"])
    for name, version in pinned(LOCK.read_text(encoding="utf-8")).items():
        try:
            writer.writerow([name, version, STATED.get(name) or licence(metadata(name))])
        except PackageNotFoundError:
            raise SystemExit(
                f"licences: {name} is not installed; run this in the lock's environment: make setup"
            ) from None
    TABLE.write_text(table.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
