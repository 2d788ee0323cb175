"""The output of prepare_shards, as the stages that read it find it: names of files, and the columns of a shard."""

import pyarrow as pa

SHARDS_FILE = "shards.json"  # template, tokenizer ids, and the Arrow files of each split
LENGTHS_FILE = "lengths.parquet"  # one row per source row
AUDIT_FILE = "audit.json"
CONTAMINATION_FILE = "contamination.json"  # what audit_contamination makes of the shards and a benchmark

# The Arrow files of a split, one row per example.
SHARD = pa.schema(
    [
        ("example_id", pa.int64()),  # row number in the concatenated source files
        ("input_ids", pa.list_(pa.int32())),  # beginning token, prompt, response, and its end token if complete
        ("prompt_tokens", pa.int32()),  # so many of input_ids are the prompt, beginning token included
        ("complete", pa.bool_()),  # False: the answer was cut, and no end token follows
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)
