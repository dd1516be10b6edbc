"""Error rates of semi-supervised learning: M2 of this library, and Pyro's example of it.

Kingma et al. 2014, Semi-supervised learning with deep generative models, Table 1. Of the 60,000
training images of MNIST, 10,000 are cut off for validation, on which settings are chosen; of the
others, some keep their label, equally many of each class. The error rate is that of the 10,000 test
images, as mean ± standard error over draws of the labels. M2 is trained on dynamic binarisation;
its classifier sees the grey test images.

    python benchmarks/semi_supervised.py train --validation --draws 5 --labels 100 1000 \
        --only NAME --epochs EPOCHS --out results/semi_supervised_validation.json
    python benchmarks/semi_supervised.py train --only "m2, convolutions" --epochs 15
    python benchmarks/semi_supervised.py train --only m1+m2 --epochs 30
    python benchmarks/semi_supervised.py train --only m2 "Pyro's ss_vae_M2" --epochs 5
    python benchmarks/semi_supervised.py table

``train`` writes ``results/semi_supervised.json`` after each training and leaves out what it has
already. ``--validation`` measures on the validation images, to choose settings; it takes other
draws of the labels. ``--jobs`` trains several at once; ``--data mnist-5k`` is a short trial.
``table`` prints a Markdown table.

Pyro's example is ``examples/vae/ss_vae_M2.py`` of Pyro 1.9 (Siddharth et al.), with its documented
settings: its model is written here in plain Pyro, and trained for as many epochs. Its steps are
compiled by this library, which gives the numbers of SVI in less time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyro_vae import VAE, fit
from pyro_vae.compiling import CompiledSVI, FusedAdam
from pyro_vae.data import Data, Images, load_data
from pyro_vae.evaluation.calibration import accuracy, calibration_error, predictions
from pyro_vae.evaluation.latents import encode_images

RESULTS = Path(__file__).parent / "results" / "semi_supervised.json"
LABELS = (100, 600, 1000, 3000)
DRAWS = 5
PAPER = {
    100: ("11.97 ± 1.71", "3.33 ± 0.14"),
    600: ("4.94 ± 0.13", "2.59 ± 0.05"),
    1000: ("3.60 ± 0.56", "2.40 ± 0.02"),
    3000: ("3.92 ± 0.63", "2.18 ± 0.04"),
}
"""Table 1 of the paper, its columns M2 and M1+M2, quoted second-hand."""
EXAMPLE = "Pyro's ss_vae_M2"
STACKED = "m1+m2"
"""M2 on the latents of M1, a VAE with 50 latent dimensions and 600 and 600 units. M1 sees no
labels, so one training of it serves all numbers of labels of a draw."""
CONV: dict[str, Any] = {"network": "conv", "hidden": (32, 64, 256)}
REPEATED: dict[str, Any] = {"weight": 500, "share": 0.1, "lr": 3e-3}
ON_M1: dict[str, Any] = {"weight": 150, "latent_size": 20}
SETTINGS: dict[str, dict[str, Any]] = {
    "m2": REPEATED,
    "m2, convolutions": REPEATED | CONV | {"precision": "bfloat16"},
    STACKED: ON_M1,
    # Tried on the validation images:
    "m2, weight 50": REPEATED | {"weight": 50},
    "m2, lr 0.001": {"weight": 500, "share": 0.1},
    "m2, lr 0.001, once": {"weight": 500},
    "m2, lr 0.001, once, weight 2500": {"weight": 2500},
    f"{STACKED}, weight 15": ON_M1 | {"weight": 15},
    f"{STACKED}, 50 latents": {"weight": 150},
    f"{STACKED}, repeated": REPEATED | ON_M1,
    f"{STACKED}, convolutions": REPEATED | ON_M1 | {"m1": CONV},
    f"{STACKED}, convolutions, weight 20": REPEATED | ON_M1 | {"m1": CONV, "weight": 20},
}
"""What changes from M2 with 50 latent dimensions, 500 units and batches of 200. ``weight`` is the
weight of one labelled image, alpha N / N_known. ``share`` repeats the labelled images, so that they
are this share of all. ``m1`` are the parts of M1."""


def split(name: str, validation: bool) -> Data:
    """The training images that remain, and the images that are measured on."""
    data = load_data(name, validation=0)
    train, held_out = data.train.split(1 / 6, seed=0)
    measured = held_out if validation else data.test
    return Data(data.name, train, measured, measured)


def own(
    settings: dict[str, Any], data: Data, labels: int, seed: int, epochs: int, device: str
) -> tuple[Tensor, Tensor]:
    """Train M2 of this library; the probabilities and the labels of the test images."""
    parts: dict[str, Any] = {"hidden": (500,), "latent_size": 50} | settings
    weight, share, lr, _ = (parts.pop(name, None) for name in ("weight", "share", "lr", "m1"))
    precision = parts.pop("precision", "float32")
    drawn = data.binarized("dynamic" if data.train.in_unit_interval else "none")
    drawn = drawn.labelled(labels, seed)
    if share is not None:
        drawn = replace(drawn, train=repeated(drawn.train, share))
    alpha = weight * labels / len(drawn.train)  # N / N_known counts the repeated images
    torch.manual_seed(seed)
    vae = VAE.for_data(drawn, guide="labelled", **parts).to(device)
    fit(
        vae,
        drawn.train.to(device),
        objective=f"m2(alpha={alpha:g})",
        epochs=epochs,
        batch_size=200,
        seed=seed,
        schedule="cosine",
        precision=precision,
        progress=False,
        **({} if lr is None else {"lr": lr}),
    )
    return predictions(vae, data.test.to(device))


def repeated(images: Images, share: float) -> Images:
    """The images, where those with a label come so often that they are this share of all."""
    assert images.context is not None
    known = torch.where(images.context >= 0)[0]
    times = max(1, round(share * len(images) / len(known)))
    return images.subset(torch.cat([torch.arange(len(images)), known.repeat(times - 1)]))


def stacked(parts: dict[str, Any], data: Data, seed: int, epochs: int, device: str) -> Data:
    """The posterior means of M1, as data for M2. The encoder is shown the grey images."""
    drawn = data.binarized("dynamic")
    torch.manual_seed(seed)
    vae = VAE.for_data(drawn, 50, **({"hidden": (600, 600)} | parts)).to(device)
    fit(
        vae,
        drawn.train.to(device),
        epochs=epochs,
        batch_size=200,
        seed=seed,
        schedule="cosine",
        progress=False,
    )

    def encoded(images: Images) -> Images:
        means = encode_images(vae, images.to(device), 0)["loc"]
        return Images(torch.from_numpy(means), images.labels)

    train, test = encoded(data.train), encoded(data.test)
    return Data(f"{data.name}, encoded", train, test, test)


class Example(nn.Module):
    """The model of Pyro's example: z and y to x, x to y, and x and y to z, with one layer each.

    Args:
        pixels: the number of pixels.
    """

    def __init__(self, pixels: int, classes: int = 10, size: int = 50, hidden: int = 500) -> None:
        super().__init__()
        self.classes, self.size = classes, size

        def layers(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs)
            )

        self.to_y = layers(pixels, classes)
        self.to_z = layers(pixels + classes, 2 * size)
        self.to_x = layers(size + classes, pixels)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("example", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)), obs=y)
            logits = self.to_x(joined(z, y))
            fn = dist.Bernoulli(logits=logits, validate_args=False)  # x is grey
            pyro.sample("x", fn.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.to_y(x)))
            loc, logscale = self.to_z(joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, logscale.exp()).to_event(1))

    def classify(self, x: Tensor, y: Tensor | None = None) -> None:
        """The classification of labelled images, with the weight of the example's README."""
        pyro.module("example", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=46.0):
            if y is not None:
                pyro.sample("y_aux", dist.OneHotCategorical(logits=self.to_y(x)), obs=y)

    def nothing(self, x: Tensor, y: Tensor | None = None) -> None:
        """The guide of :meth:`classify`."""


def joined(a: Tensor, b: Tensor) -> Tensor:
    leading = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([each.expand(*leading, -1) for each in (a, b)], -1)


def example(data: Data, labels: int, seed: int, epochs: int, device: str) -> tuple[Tensor, Tensor]:
    """Train Pyro's example: a batch with labels stands between batches without, at even distances;
    the probabilities and the labels of the test images."""
    data = data.labelled(labels, seed).to(device)
    context = data.train.context
    assert context is not None
    x = data.train.batch(slice(None)).flatten(1)
    known, unknown = torch.where(context >= 0)[0], torch.where(context < 0)[0]
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    module = Example(x.shape[1]).to(device)
    adam = FusedAdam({"lr": 0.00042, "betas": (0.9, 0.999)})
    bound = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    guide = config_enumerate(module.guide, "parallel", True)
    main = CompiledSVI(module.model, guide, adam, bound)
    aside = CompiledSVI(module.classify, module.nothing, adam, Trace_ELBO())
    for _ in range(epochs):
        with_labels = list(known[torch.randperm(len(known), device=device)].split(200))
        without = list(unknown[torch.randperm(len(unknown), device=device)].split(200))
        every = len(without) // len(with_labels)
        for step, rows in enumerate(without):
            if step % every == 0 and with_labels:
                chosen = with_labels.pop()
                y = one_hot(context[chosen], 10).to(x)
                main.step(x[chosen], y)
                aside.step(x[chosen], y)
            main.step(x[rows])
    with torch.no_grad():
        probs = module.to_y(data.test.batch(slice(None)).flatten(1)).softmax(-1)
    assert data.test.labels is not None
    return probs.cpu(), data.test.labels.cpu()


def table(results: list[dict[str, Any]]) -> str:
    """Error rates in percent, and calibration errors, as a Markdown table.

    A column is shown if all its trainings are there, five draws for each number of labels.
    """
    count = Counter((r["name"], r["epochs"]) for r in results)
    kinds = [kind for kind, n in count.items() if n >= DRAWS * len(LABELS)]
    names = [f"{name}, {epochs} epochs" for name, epochs in kinds]
    lines = ["| labels | " + " | ".join(names) + " | the paper, M2 | the paper, M1+M2 |"]
    lines.append("| ---: |" + " ---: |" * (len(names) + 2))
    for labels in sorted({r["labels"] for r in results}):
        cells = []
        for kind in kinds:
            runs = [
                r for r in results if (r["name"], r["epochs"]) == kind and r["labels"] == labels
            ]
            errors, ece = ([100 * r[key] for r in runs] for key in ("error", "calibration_error"))
            cells.append(f"{spread(errors)} (ECE {spread(ece)})" if runs else "")
        lines.append(f"| {labels:,} | {' | '.join([*cells, *PAPER.get(labels, ('', ''))])} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """A mean and its standard error over draws."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error}" if values else ""


def named(device: str) -> str:
    """The device of a result, for a GPU with the version of torch."""
    if device != "cuda":
        return device
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__.partition('+')[0]}"


def train(
    name: str, seed: int, labels: list[int], epochs: int, data: str, validation: bool, device: str
) -> list[dict[str, Any]]:
    """Train one model on one draw of each number of labels, and measure it."""
    images, found = split(data, validation), []
    if name.startswith(STACKED) and labels:
        images = stacked(SETTINGS[name].get("m1", {}), images, seed, epochs, device)
    for count in labels:
        began = time.perf_counter()
        how = (images, count, seed, epochs, device)
        probs = example(*how) if name == EXAMPLE else own(SETTINGS[name], *how)
        found.append(
            {
                "name": name,
                "labels": count,
                "seed": seed,
                "epochs": epochs,
                "device": named(device),
                "precision": SETTINGS.get(name, {}).get("precision", "float32"),
                "error": 1 - accuracy(*probs)[0],
                "calibration_error": calibration_error(*probs)[0],
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["train", "table"])
    parser.add_argument("--labels", nargs="*", type=int, default=list(LABELS))
    parser.add_argument("--draws", nargs="*", type=int, default=list(range(DRAWS)))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", choices=[*SETTINGS, EXAMPLE], default=["m2", EXAMPLE])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    stored = json.loads(asked.out.read_text()) if asked.out.exists() else {"results": []}
    done = stored["results"]
    if asked.action == "table":
        print(table(done))
        return
    known = {(r["name"], r["epochs"], r["seed"], r["labels"]) for r in done}
    content = {
        "data": f"{asked.data}, measured on "
        f"{'the validation images' if asked.validation else 'the test images'}",
        "command": "python benchmarks/semi_supervised.py train --only NAME --epochs EPOCHS",
        "versions": {k: version(k) for k in ("torch", "pyro-ppl", "pyro-vae")},
        "results": done,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        work = []
        for seed, name in product(asked.draws, asked.only):
            left = [n for n in asked.labels if (name, asked.epochs, seed, n) not in known]
            how = (asked.epochs, asked.data, asked.validation, asked.device)
            for labels in [left] if name.startswith(STACKED) else [[n] for n in left]:
                work.append(pool.submit(train, name, seed, labels, *how))
        for each in as_completed(work):
            done += each.result()
            done.sort(key=lambda r: (r["name"], r["labels"], r["seed"]))
            asked.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
