"""Write the JSON schema of a configuration file, which editors use to complete and check keys.

reads   the types in src/dreamtune/settings
writes  config/schema.json
usage   python workflow/scripts/write_schema.py
"""

import argparse
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.config_schema import json_schema
from dreamtune.files import write_json

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_json(Path("config/schema.json"), json_schema())
