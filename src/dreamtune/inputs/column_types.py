"""The types of parquet columns that can be read: text, numbers, and lists and structs of these."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types


def is_text_or_number(kind: pa.DataType) -> bool:
    """Whether a column holds text or numbers, or a dictionary of them."""
    if types.is_dictionary(kind):
        return is_text_or_number(kind.value_type)
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return is_text(kind) or number or types.is_null(kind)


def is_nested(kind: pa.DataType) -> bool:
    """Whether a column holds lists or structs of text, numbers, times, lists and structs."""
    if types.is_struct(kind):
        return all(_can_be_inside(field.type) for field in kind)
    return bool(_is_list(kind) and _can_be_inside(kind.value_type))


def has_messages(kind: pa.DataType) -> bool:
    """Whether a column holds lists of structs, as conversations are."""
    return bool(_is_list(kind) and types.is_struct(kind.value_type))


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _can_be_inside(kind: pa.DataType) -> bool:
    return is_text_or_number(kind) or bool(types.is_temporal(kind)) or is_nested(kind)


def leaves_of(metadata: pq.FileMetaData, columns: Collection[str]) -> list[str]:
    """Return the paths of a parquet file's columns among `columns`, and of those within their lists and structs."""
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    return [path for path in paths if path in columns or path.split(".")[0] in columns]


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
