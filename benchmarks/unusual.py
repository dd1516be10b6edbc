"""How well log p̂(x) tells unusual images from digits.

VAEs with other seeds are trained on the embedded digits. The test digits are then scored beside as
many images of other kinds: noise, photographs, and digits that were turned, mirrored or inverted.
For each kind: the AUROC of log p̂(x), and, beside it, that of a score that knows no VAE at all,
minus the number of bytes that the image takes as PNG.

    python benchmarks/unusual.py --out benchmarks/results/unusual.json
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import pyro
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from pyro_vae.data import Images, load_data
from pyro_vae.evaluation.importance import importance
from pyro_vae.evaluation.scores import auroc
from pyro_vae.training import fit
from pyro_vae.vae import VAE

DIGITS = "test digits"


def photographs(count: int) -> torch.Tensor:
    """28 x 28 cuts of scikit-learn's two photographs, grey; uint8 ``[N, 1, 28, 28]``."""
    generator = torch.Generator().manual_seed(0)
    cuts = []
    for picture in load_sample_images().images:
        grey = torch.tensor(picture).float().mean(-1)  # [427, 640]
        tiles = grey.unfold(0, 28, 28).unfold(1, 28, 28).reshape(-1, 1, 28, 28)
        order = torch.randperm(len(tiles), generator=generator)
        cuts.append(tiles[order[: (count + 1) // 2]])
    return torch.cat(cuts)[:count].to(torch.uint8)


def kinds(digits: Images) -> dict[str, Images]:
    """As many images of other kinds, under the digits' own binarisation."""
    x = digits.pixels
    generator = torch.Generator().manual_seed(0)
    shuffled = x.flatten(1)[:, torch.randperm(784, generator=generator)].view_as(x)
    noise = torch.randint(256, x.shape, generator=generator, dtype=torch.uint8)
    others = {
        "uniform noise": noise,
        "digits' pixels, shuffled": shuffled,
        "photographs": photographs(len(x)),
        "digits upside down": x.flip(-1, -2),
        "digits mirrored": x.flip(-1),
        "digits turned by 90 degrees": x.rot90(1, (-2, -1)),
        "digits inverted": 255 - x,
        "all black": torch.zeros_like(x),
    }
    return {name: replace(digits, pixels=p, labels=None) for name, p in others.items()}


def minus_bytes(images: Images) -> torch.Tensor:
    """Minus the size of each image as PNG, after binarisation; ``[N]``."""
    x = images.batch(slice(None), torch.Generator().manual_seed(0))

    def size(image: torch.Tensor) -> int:
        file = io.BytesIO()
        Image.fromarray((255 * image[0]).to(torch.uint8).numpy()).save(file, "png")
        return file.tell()

    return torch.tensor([-float(size(image)) for image in x])


def scored(seed: int, epochs: int, count: int, samples: int) -> dict[str, torch.Tensor]:
    """log p̂(x) of test digits, and of as many images of each other kind, by one trained VAE."""
    data = load_data("mnist-5k", binarize="dynamic", validation=0)
    pyro.set_rng_seed(seed)
    vae = VAE.for_data(data.train)
    fit(vae, data.train, epochs=epochs, seed=seed, progress=False)
    digits = data.test.first(count)
    return {
        name: importance(vae.model, vae.guide, images, samples=samples).log_p
        for name, images in {DIGITS: digits, **kinds(digits)}.items()
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--epochs", type=int, default=50)
    options.add_argument("--images", type=int, default=300)
    options.add_argument("--samples", type=int, default=500)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    how = (given.epochs, given.images, given.samples)
    seeds = [scored(seed, *how) for seed in range(given.seeds)]
    digits = load_data("mnist-5k", binarize="dynamic", validation=0).test.first(given.images)
    plain, rows = minus_bytes(digits), {}
    for name, images in kinds(digits).items():
        areas = [auroc(of[DIGITS], of[name]) for of in seeds]
        rows[name] = {
            "auroc": [round(area, 4) for area in areas],
            "mean": round(mean(areas), 4),
            "standard_deviation": round(stdev(areas), 4),
            "auroc_of_png_size": round(auroc(plain, minus_bytes(images)), 4),
        }
        print(name, rows[name], flush=True)
    result = {
        "what": "AUROC of log p(x) by importance sampling, test digits against other images",
        "command": " ".join(["python", *sys.argv]),
        "data": "mnist-5k, dynamic binarisation; photographs of scikit-learn's load_sample_images",
        "settings": {k: v for k, v in vars(given).items() if k != "out"},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "pyro-ppl", "scikit-learn", "pillow")},
        "against": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
