"""Turn parquet rows into tokenised Arrow shards of the splits train, validation and test, and audit the data.

reads   parquet files, tokenizer and, if contaminated rows are dropped, the benchmarks of the frozen config
writes  train/ validation/ test/ (Arrow), shards.json, lengths.parquet, audit.json
usage   python workflow/scripts/prepare_shards.py --out results/prepare_shards/VERSION [--part 2/7]
"""

import _src  # noqa: F401, puts src on the path

from dreamtune.workflow.code import code_digest

BEFORE = code_digest(__file__)
from dreamtune.canvas import Canvas
from dreamtune.data.prepare import prepare_shards
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.workflow.stage import Stage

if __name__ == "__main__":
    with Stage(__file__, BEFORE) as stage:
        against = [name for name in stage.spec["settings"] if name.startswith("benchmark/")]
        stage.counts = prepare_shards(
            stage.section("data", DataConfig),
            stage.section("model", ModelConfig),
            stage.out,
            [stage.section(name, Benchmark) for name in against],
            stage.part,
            stage.parts(),
            {name: Canvas(**values) for name, values in stage.spec.get("canvases", {}).items()},
            stage.spec["settings"].get("graded"),
        )
