from dreamtune.settings.benchmark import Benchmark as Benchmark
from dreamtune.settings.likelihood import LikelihoodConfig as LikelihoodConfig
from dreamtune.settings.report import Comparison as Comparison
