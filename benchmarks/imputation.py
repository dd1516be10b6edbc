"""How well missing cells of tables are imputed, against the imputers of scikit-learn.

Half of the cells of a table are hidden, completely at random. A method fills the holes from what is
left. For each table and method: the squared error in units of each column's variance, mean over the
hidden numbers; and of the VAE, which gives multiple imputations, the share of the hidden numbers
that its 90 % intervals cover.

The mixed tables also have columns of levels: of two values, of categories and of ordered ones. For
them the number is the error rate, the share of the hidden cells whose level is another one. The VAE
has the likelihood ``columns``, with the types that are inferred from the whole table, and gives the
most frequent level of its completions. The imputers of scikit-learn work on the codes of the
levels, and what they give is rounded; "mean" is the most frequent level. Otherwise the settings of
the VAE are those of SETTINGS for all tables.

What was looked at: the settings were chosen with --validate, which hides a fifth of the observed
cells, trains on the others and scores the fifth. But the length of the training was changed after
three numbers of the test had been seen, on draws 0 and 1 of the holes, and draws 0 to 4 were then
measured with these settings. So draws 5 to 9 are scored: they hide other cells of the same tables,
and nothing was changed since. No setting was chosen for the mixed tables.

    python benchmarks/imputation.py --out benchmarks/results/imputation/tables.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from scipy.stats import mode
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from pyro_vae import VAE, fit
from pyro_vae.data import Data, Images
from pyro_vae.evaluation.imputation import impute

SETTINGS: dict[str, Any] = {
    "likelihood": "student-t",
    "latent": 10,
    "hidden": (128, 128),
    "objective": "iwae(num_particles=5)",
    "epochs": 200,
    "batch_size": 128,
    "lr": 3e-3,
    "weight_decay": 0.0,
    "members": 2,
}
"""Of the VAE. Members are trained with different seeds, and their completions are pooled."""
SAMPLES, DRAWS = 500, 100
FIRST = 5
"""The first draw of the holes that is scored; those before it have been looked at."""


def tables() -> dict[str, np.ndarray]:
    """The numeric columns of tables that installed packages carry, rows without holes."""
    import palmerpenguins
    from statsmodels.datasets import anes96

    penguins = palmerpenguins.load_penguins().select_dtypes("float").dropna()
    return {
        "breast-cancer": load_breast_cancer().data,
        "wine": load_wine().data,
        "diabetes": load_diabetes().data,
        "penguins": penguins.to_numpy(),
        "anes96": anes96.load_pandas().data.to_numpy(float),
    }


def mixed_tables() -> dict[str, Images]:
    """Tables with columns of levels, rows without holes."""
    import palmerpenguins
    from statsmodels.datasets import anes96

    frames = {
        "penguins-mixed": palmerpenguins.load_penguins().dropna().reset_index(drop=True),
        "anes96-mixed": anes96.load_pandas().data,
    }
    return {name: Data.of_table(f, test_fraction=0.0).train for name, f in frames.items()}


def hidden(shape: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """The mask of what is observed; a row may have nothing, a column has something."""
    return np.random.RandomState(seed).uniform(size=shape) >= share


def by_vae(images: Images, seed: int, settings: dict) -> tuple[np.ndarray, np.ndarray, float]:
    """The conditional means, the completions ``[draws, N, D]`` and the share of trusted rows."""
    means, completions, trusted = [], [], []
    for member in range(settings["members"]):
        pyro.set_rng_seed(100 * seed + member)
        vae = VAE.for_data(
            images,
            settings["latent"],
            likelihood="columns" if images.schema is not None else settings["likelihood"],
            hidden=settings["hidden"],
        )
        adam = torch.optim.AdamW(
            vae.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"]
        )
        fit(
            vae,
            images,
            objective=settings["objective"],
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            optimizer=adam,
            seed=100 * seed + member,
            compiled=False,
            progress=False,
        )
        result = impute(vae, images, samples=SAMPLES, draws=DRAWS, seed=seed)
        means.append(result.x.double().numpy())
        assert result.draws is not None
        completions.append(result.draws.double().numpy())
        trusted.append(result.trusted.double().mean().item())
    return np.mean(means, 0), np.concatenate(completions), float(np.mean(trusted))


def by_sklearn() -> dict:
    """The imputers, on standardised columns."""
    trees = ExtraTreesRegressor(50, random_state=0, n_jobs=1)
    return {
        "mean": SimpleImputer(),
        "knn": KNNImputer(),
        "bayesian-ridge": IterativeImputer(max_iter=30, random_state=0),
        "extra-trees": IterativeImputer(trees, max_iter=5, random_state=0),
    }


def measure(
    table: np.ndarray | Images, truth: np.ndarray, known: np.ndarray, seed: int, given: Any
) -> dict:
    """The errors of each method on the cells that are not known.

    Args:
        table: the numbers, or the rows of a mixed table.
        truth: the numbers, ``[N, D]``; NaN where they are not used.
        known: bool, ``[N, D]``.
        seed: of the draw of the holes.
        given: the options of the command; ``settings`` are those of the VAE.
    """
    x = truth
    holed = np.where(known, x, np.nan)
    mean, unit = np.nanmean(holed, 0), np.nanstd(holed, 0)
    unit = np.where(unit > 0, unit, 1)
    scored = ~known & ~np.isnan(x)  # the validation hides cells of a table with holes
    spread = np.nanstd(x, 0)
    levels = np.zeros(x.shape[1], dtype=int)  # how many a column has; 0 of numbers
    if isinstance(table, Images) and table.schema is not None:
        levels[:] = [len(column.levels) for column in table.schema.columns]
    result: dict = {}

    def errors(filled: np.ndarray) -> dict[str, float]:
        numbers = scored & (levels == 0)
        found = {"error": float((((filled - x) / spread)[numbers] ** 2).mean())}
        if levels.any():
            wrong = np.clip(np.rint(filled), 0, levels - 1) != x
            found["error_rate"] = float(wrong[scored & (levels > 0)].mean())
        return {name: round(each, 4) for name, each in found.items()}

    for name, imputer in by_sklearn().items():
        if name in given.methods:
            began = time.perf_counter()
            filled = imputer.fit_transform((holed - mean) / unit) * unit + mean
            if name == "mean":
                filled = np.where(levels > 0, most_frequent(holed), filled)
            seconds = round(time.perf_counter() - began, 1)
            result[name] = {**errors(filled), "seconds": seconds}
    if "vae" in given.methods:
        began = time.perf_counter()
        if isinstance(table, Images):
            images = replace(table, mask=torch.from_numpy(known))
            filled, completions, trusted = by_vae(images, seed, given.settings)
            filled = np.where(levels > 0, most_frequent(completions), filled)
        else:
            images = Images(torch.tensor((holed - mean) / unit, dtype=torch.float32))
            filled, completions, trusted = by_vae(images, seed, given.settings)
            filled, completions = filled * unit + mean, completions * unit + mean
        low, high = np.quantile(completions, [0.05, 0.95], axis=0)
        inside = ((low <= x) & (x <= high))[scored & (levels == 0)]
        result["vae"] = {
            **errors(filled),
            "coverage_of_90": round(float(inside.mean()), 4),
            "trusted_rows": round(trusted, 4),
            "seconds": round(time.perf_counter() - began, 1),
        }
    return result


def most_frequent(x: np.ndarray) -> np.ndarray:
    """The most frequent number along the first axis; NaN counts as none."""
    return mode(x, axis=0, nan_policy="omit").mode


def summary(rows: list[dict]) -> dict:
    """The mean over draws of the holes, and its standard error."""
    found: dict[str, dict[str, float]] = {}
    for method in rows[0]:
        found[method] = {}
        for number in rows[0][method]:
            each = np.array([row[method][number] for row in rows])
            found[method][number] = round(float(each.mean()), 4)
            if len(each) > 1 and number != "seconds":
                spread = each.std(ddof=1) / len(each) ** 0.5
                found[method][f"{number}_standard_error"] = round(float(spread), 4)
    return found


def main() -> None:
    warnings.filterwarnings("ignore", module="sklearn")
    methods = [*by_sklearn(), "vae"]
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--tables", nargs="+", default=[*tables(), *mixed_tables()])
    options.add_argument("--methods", nargs="+", default=methods)
    options.add_argument("--draws", type=int, default=5, help="draws of the holes")
    options.add_argument("--share", type=float, default=0.5, help="of the entries that are hidden")
    options.add_argument("--validate", action="store_true")
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    settings = given.settings = dict(SETTINGS)
    first = 0 if given.validate else FIRST
    seeds = list(range(first, first + given.draws))
    for each in given.set:
        name, _, value = each.partition("=")
        settings[name] = type(SETTINGS[name])(
            json.loads(value) if value[0] in "[0123456789" else value
        )
    torch.set_num_threads(1)
    result = {
        "what": "error: squared error of imputed numbers in units of the column's variance, mean "
        "over hidden numbers; error_rate: share of the hidden levels that are imputed wrongly; "
        "mean and standard error over draws of the holes",
        "command": " ".join(["python", *sys.argv]),
        "settings": settings | {"samples": SAMPLES, "completions": DRAWS * settings["members"]},
        "seeds": seeds,
        "share_hidden": given.share,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "pyro-ppl", "scikit-learn", "numpy")},
        "tables": {},
        "mixed_tables": {},
    }
    numeric, mixed = tables(), mixed_tables()
    for name in given.tables:
        kind = "tables" if name in numeric else "mixed_tables"
        table = numeric[name] if name in numeric else mixed[name]
        x = table if isinstance(table, np.ndarray) else table.pixels.double().numpy()
        rows = []
        for seed in seeds:
            known = hidden(x.shape, given.share, seed)
            truth = x
            if given.validate:
                truth = np.where(known, x, np.nan)
                known = known & hidden(x.shape, 0.2, 1000 + seed)
            rows.append(measure(table, truth, known, seed, given))
            print(name, seed, rows[-1], flush=True)
        result[kind][name] = {"shape": x.shape, **summary(rows)}
        if isinstance(table, Images):
            result[kind][name]["columns"] = str(table.schema)
        result[f"mean_over_{kind}"] = {
            method: {
                number: round(float(np.mean([e[method][number] for e in result[kind].values()])), 4)
                for number in ("error", "error_rate")[: 1 + (kind == "mixed_tables")]
            }
            for method in given.methods
        }
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
