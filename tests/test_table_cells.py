"""Tables as people store them: digits that are words, bad cells, names, labels, broken files."""

import numpy as np
import pandas as pd
import pytest

from pyro_vae import load_data
from pyro_vae.data import Data

ROWS = 24
NUMBERS = np.random.RandomState(0).randn(ROWS)


def written(path, **columns):
    """A CSV file with a column ``y`` that is fine, beside the columns that are given as text."""
    pd.DataFrame({"y": NUMBERS, **columns}).to_csv(path, index=False)
    return path


def test_digits_that_a_number_would_not_keep_are_words(tmp_path):
    path = written(
        tmp_path / "t.csv",
        zip=["01003", "75001", None] * 8,
        area=["01", "02", "11"] * 8,
        phone=[f"+33123456{i:03}" for i in range(ROWS)],
        card=[f"40012345678901{i:02}" for i in range(ROWS)],
        change=["+1", "-1", "+2"] * 8,
    )
    schema = load_data(path).train.schema
    levels = {column.name: column.levels for column in schema.columns}
    assert levels == {"y": (), "zip": ("01003", "75001"), "area": ("01", "02", "11"), "change": ()}
    assert schema.left_out == {"phone": "all values differ", "card": "all values differ"}
    again = load_data(path, schema=schema, test_fraction=0).train
    back = schema.frame(again.pixels, again.mask)
    assert back["zip"].fillna("").tolist() == ["01003", "75001", ""] * 8
    as_number = load_data(path, schema={"area": "real"}).train.schema
    assert {column.name: column.type for column in as_number.columns}["area"] == "real"


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64"])
def test_whole_numbers_beyond_float64_are_left_out(dtype):
    ids = pd.Series([2**53 + 7 * i for i in range(ROWS)][::-1], dtype=dtype)
    frame = pd.DataFrame({"y": NUMBERS, "person": ids})
    schema = Data.of_table(frame).train.schema
    assert schema.left_out == {"person": "whole numbers beyond 2^53, which are ids"}
    # By a schema they are numbers, and a number too large becomes the largest of its type.
    schema = Data.of_table(frame, {"person": "real"}).train.schema
    data = schema.frame(Data.of_table(frame, schema).train.pixels * 1e30)
    assert data["person"].dtype == dtype
    assert data["person"].max() > 2**62
