"""The files that prepare_shards writes and other stages read: their names, and the columns of a shard."""

import pyarrow as pa

SHARDS_FILE = "shards.json"  # template, tokenizer ids, and the Arrow files of each split
LENGTHS_FILE = "lengths.parquet"  # one row per source row
AUDIT_FILE = "audit.json"
REFERENCES_FILE = "references.json"  # how many test rows can be graded, and examples, by audit_references
CONTAMINATION_FILE = "contamination.json"  # overlap of the shards with a benchmark, by audit_contamination

COPY = 10**10  # added to the example_id of a training row for each further copy that its source's weight asks for

# The Arrow files of a split, one row per example.
SHARD = pa.schema(
    [
        ("example_id", pa.int64()),  # row number in the concatenated source files; of a copy, plus a multiple of COPY
        ("cluster", pa.int64()),  # questions of one template share it: the example_id of the first
        ("input_ids", pa.list_(pa.int32())),  # beginning token, prompt, response, and its end token if complete
        ("prompt_tokens", pa.int32()),  # length of the prompt in input_ids, beginning token included
        ("complete", pa.bool_()),  # False if the answer was cut, so that no end token follows
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)
