"""A mixed table with holes, of which the truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd


def patients(rows: int = 120, holes: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Columns of every type, and of every kind that is left out."""
    random = np.random.RandomState(seed)
    z = random.randn(rows)
    words = random.choice(["Bonn", "Paris", "Rome"], rows)
    levels = pd.Categorical(random.choice(["I", "II", "III"], rows), ["I", "II", "III"], True)
    frame = pd.DataFrame(
        {
            "id": np.arange(1000, 1000 + rows),
            "age": (40 + 10 * z + 5 * random.randn(rows)).round().astype(int) + 30,
            "bmi": 25 + 3 * z + random.randn(rows),
            "income": np.exp(10 + 0.9 * z + 0.3 * random.randn(rows)),
            "visits": random.poisson(np.exp(0.5 + 0.5 * z)),
            "sex": np.where(z + random.randn(rows) > 0, "f", "m"),
            "city": words,
            "ward": pd.Categorical(words, ["Bonn", "Oslo", "Paris", "Rome"]),
            "stage": levels,
            "smokes": random.rand(rows) > 0.7,
            "rating": random.randint(1, 6, rows),
            "seconds": 1.7e9 + 100 * random.rand(rows),
            "code": pd.array(random.randint(5, 7, rows), dtype="Int64"),
            "seen": pd.date_range("2020-01-01", periods=rows),
            "note": [f"text {i}" for i in range(rows)],
            "site": 3,
            "empty": np.nan,
        }
    )
    for name in ("bmi", "income", "city", "ward", "stage", "code"):
        frame.loc[random.rand(rows) < holes, name] = None
    return frame
