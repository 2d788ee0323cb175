"""Write the JSON schema of a configuration file, which editors use to complete and check keys.

reads   the types in src/dreamtune/settings
writes  config/schema.json
usage   python workflow/scripts/write_schema.py
"""

import argparse
import json
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.config import json_schema

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    Path("config/schema.json").write_text(json.dumps(json_schema(), indent=1) + "\n")
