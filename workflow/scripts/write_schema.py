"""Write the JSON schemas of a configuration file, with which editors complete and check keys, and of a study's files.

reads   the types in src/dreamtune/settings and src/dreamtune/formats/study_schema.py
writes  config/schema.json, docs/study.schema.json, docs/confirm.schema.json, docs/members.schema.json
usage   python workflow/scripts/write_schema.py
"""

import argparse
from pathlib import Path

import _src  # noqa: F401, puts src on the path

from dreamtune.config_schema import json_schema
from dreamtune.files import write_json
from dreamtune.formats.study_schema import study_schemas

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_json(Path("config/schema.json"), json_schema())
    for name, schema in study_schemas().items():
        write_json(Path(f"docs/{name}.schema.json"), schema)
