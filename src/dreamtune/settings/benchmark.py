"""A benchmark: questions with reference answers from other files."""

from dreamtune.settings.base import NAME, Section, UserPath, result, runtime


class Benchmark(Section):
    """Parquet files with a question and an answer column, which are answered and graded like the test split."""

    name: str = result(
        ..., "short name, used in paths and in the report", pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=NAME
    )
    files: list[UserPath] = runtime(
        ...,
        "files or globs (parquet, CSV, JSON lines), or hf://datasets/OWNER/NAME@REVISION/PATH, 40-digit revision",
        min_length=1,
    )
    question: str = result("question", "column that holds the question")
    answer: str = result("answer", "column that holds the reference answer")
