"""How well missing numbers of tables are imputed, against the imputers of scikit-learn.

Half of the entries of a table are hidden, completely at random. A method fills the holes from what
is left. For each table and method: the squared error in units of each column's variance, mean over
the hidden entries; and of the VAE, which gives multiple imputations, the share of the hidden
entries that its 90 % intervals cover.

The settings of the VAE are those of SETTINGS for all tables. They were chosen with --validate,
which hides a fifth of the observed entries, trains on the others and scores the fifth. The entries
that this benchmark scores had no part in it.

    python benchmarks/imputation.py --out benchmarks/results/imputation/tables.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from pyro_vae import VAE, fit
from pyro_vae.data import Images
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


def tables() -> dict[str, np.ndarray]:
    """The numeric columns of tables that installed packages carry, rows without holes."""
    import palmerpenguins
    from statsmodels.datasets import anes96  # type: ignore[import-untyped]

    penguins = palmerpenguins.load_penguins().select_dtypes("float").dropna()
    return {
        "breast-cancer": load_breast_cancer().data,
        "wine": load_wine().data,
        "diabetes": load_diabetes().data,
        "penguins": penguins.to_numpy(),
        "anes96": anes96.load_pandas().data.to_numpy(float),
    }


def hidden(shape: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """The mask of what is observed; a row may have nothing, a column has something."""
    return np.random.RandomState(seed).uniform(size=shape) >= share


def by_vae(x: np.ndarray, seed: int, settings: dict) -> tuple[np.ndarray, np.ndarray, float]:
    """The conditional means, the completions ``[draws, N, D]`` and the share of trusted rows."""
    images = Images(torch.tensor(x, dtype=torch.float32))
    means, completions, trusted = [], [], []
    for member in range(settings["members"]):
        pyro.set_rng_seed(100 * seed + member)
        vae = VAE.for_data(
            images,
            settings["latent"],
            likelihood=settings["likelihood"],
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


def measure(x: np.ndarray, known: np.ndarray, seed: int, settings: dict, asked: list[str]) -> dict:
    """The error of each method on the entries of ``x`` that are not known."""
    holed = np.where(known, x, np.nan)
    mean, unit = np.nanmean(holed, 0), np.nanstd(holed, 0)
    unit = np.where(unit > 0, unit, 1)
    kept = ~np.isnan(x)  # the validation hides entries of a table with holes
    scored = ~known & kept
    spread = np.nanstd(x, 0)
    result: dict = {}

    def error(filled: np.ndarray) -> float:
        return round(float((((filled - x) / spread)[scored] ** 2).mean()), 4)

    for name, imputer in by_sklearn().items():
        if name in asked:
            began = time.perf_counter()
            filled = imputer.fit_transform((holed - mean) / unit) * unit + mean
            seconds = round(time.perf_counter() - began, 1)
            result[name] = {"error": error(filled), "seconds": seconds}
    if "vae" in asked:
        began = time.perf_counter()
        filled, completions, trusted = by_vae((holed - mean) / unit, seed, settings)
        low, high = np.quantile(completions * unit + mean, [0.05, 0.95], axis=0)
        result["vae"] = {
            "error": error(filled * unit + mean),
            "coverage_of_90": round(float(((low <= x) & (x <= high))[scored].mean()), 4),
            "trusted_rows": round(trusted, 4),
            "seconds": round(time.perf_counter() - began, 1),
        }
    return result


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
    options.add_argument("--tables", nargs="+", default=list(tables()))
    options.add_argument("--methods", nargs="+", default=methods)
    options.add_argument("--draws", type=int, default=5, help="draws of the holes")
    options.add_argument("--share", type=float, default=0.5, help="of the entries that are hidden")
    options.add_argument("--validate", action="store_true")
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    settings = dict(SETTINGS)
    for each in given.set:
        name, _, value = each.partition("=")
        settings[name] = type(SETTINGS[name])(
            json.loads(value) if value[0] in "[0123456789" else value
        )
    torch.set_num_threads(1)
    result = {
        "what": "squared error of imputed entries in units of the column's variance, mean over "
        "hidden entries; mean and standard error over draws of the holes",
        "command": " ".join(["python", *sys.argv]),
        "settings": settings | {"samples": SAMPLES, "completions": DRAWS * settings["members"]},
        "seeds": list(range(given.draws)),
        "share_hidden": given.share,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "pyro-ppl", "scikit-learn", "numpy")},
        "tables": {},
    }
    for name in given.tables:
        x, rows = tables()[name], []
        for seed in range(given.draws):
            known = hidden(x.shape, given.share, seed)
            truth = x
            if given.validate:
                truth = np.where(known, x, np.nan)
                known = known & hidden(x.shape, 0.2, 1000 + seed)
            rows.append(measure(truth, known, seed, settings, given.methods))
            print(name, seed, rows[-1], flush=True)
        result["tables"][name] = {"shape": x.shape, **summary(rows)}
        every = list(result["tables"].values())
        result["mean_over_tables"] = {
            method: round(float(np.mean([table[method]["error"] for table in every])), 4)
            for method in given.methods
        }
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
