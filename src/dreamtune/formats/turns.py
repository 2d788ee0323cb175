"""The file that prepare_shards writes for conversations and the report reads: its name, and its columns."""

import pyarrow as pa

TURNS_FILE = "turns.parquet"  # the table TURNS

# One row per document, which is an assistant turn of a conversation.
TURNS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("row", pa.int32()),  # number of the conversation in the concatenated source files
        ("turn", pa.int32()),  # number of the assistant turn in it, from 1
        ("context", pa.string()),  # what was said before the question; null, like reply, in training and where dropped
        ("reply", pa.string()),  # the assistant's turn
    ]
)
