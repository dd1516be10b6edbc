"""Tables in Parquet files, with the types of their columns."""

from __future__ import annotations

from pathlib import Path

from .csvfiles import Known, Read, check_names


def read_parquet(path: Path, known: Known) -> Read:
    """A Parquet file.

    Whole numbers with missing cells get a type of pandas that holds both. As float64, numbers
    beyond 2^53 would be others.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    whole = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
    }
    table = parquet.read_table(path)
    check_names(table.column_names, repr(path.name))
    frame = table.to_pandas()
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if kind in whole and name in frame and frame[name].dtype.kind == "f":
            frame[name] = table[name].to_pandas(types_mapper=whole.get).array
    return frame, None
