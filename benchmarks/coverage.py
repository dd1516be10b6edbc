"""How often the printed intervals for log p(x) cover it, in linear-Gaussian models with known log
p(x), and which of them are called trusted.

python benchmarks/coverage.py           (measures and writes results/coverage.json; 10 minutes)
python benchmarks/coverage.py table     (prints the table of docs/evaluation.md)
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae.data.images import Images
from pyro_vae.evaluation.importance import Importance, importance

RESULTS = Path(__file__).parent / "results" / "coverage.json"
LATENTS = (10, 20)
FACTORS = (1.3, 0.9, 0.8, 0.7)
KLS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.5)
REPETITIONS, IMAGES, DRAWS = 200, 20, 500


@dataclass(frozen=True)
class Pair:
    """z ~ N(0, I), x ~ N(W z, s² I) with as many pixels as latents, and a guide.

    Args:
        name: of the guide.
        weight: W, ``[D, Z]``.
        scale: s.
        spread: a Cholesky factor of the guide's covariance, ``[Z, Z]``; its mean is exact.
    """

    name: str
    weight: Tensor
    scale: float
    spread: Tensor

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            origin = torch.zeros(len(self.spread), dtype=torch.float64)
            z = pyro.sample("z", dist.Normal(origin, 1.0).to_event(1))
            loc = (z @ self.weight.T)[..., None, None, :]
            pyro.sample("x", dist.Normal(loc, self.scale).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        gain = posterior(self.weight, self.scale) @ self.weight.T / self.scale**2
        with pyro.plate("data", len(x), dim=-1):
            loc = x.flatten(1) @ gain.T
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.spread))

    def images(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws of x ``[count, 1, 1, D]``, and log p(x) of each."""
        size = len(self.weight)
        cov = self.weight @ self.weight.T + self.scale**2 * torch.eye(size, dtype=torch.float64)
        marginal = MultivariateNormal(torch.zeros(size, dtype=torch.float64), cov)
        torch.manual_seed(seed)
        x = marginal.sample((count,))
        return x.reshape(count, 1, 1, size), marginal.log_prob(x)


def posterior(weight: Tensor, scale: float) -> Tensor:
    """The covariance of p(z | x), ``[Z, Z]``."""
    eye = torch.eye(weight.shape[1], dtype=torch.float64)
    return torch.linalg.inv(eye + weight.T @ weight / scale**2)


def best_mean_field(cov: Tensor) -> Tensor:
    """The variances of the mean-field Normal that is nearest to N(·, cov) in KL(q || p)."""
    return 1 / torch.linalg.inv(cov).diagonal()


def distance(cov: Tensor) -> float:
    """KL(q || p) of the best mean-field q, in nats."""
    return (cov.logdet() - best_mean_field(cov).log().sum()).item() / 2


def scale_for(weight: Tensor, kl: float) -> float:
    """The s at which the best mean-field guide is ``kl`` nats from the posterior."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if distance(posterior(weight, middle)) > kl else (low, middle)
    return low


def pairs(size: int) -> Iterator[Pair]:
    """The models and guides of this number of latents."""
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(size, size, generator=generator, dtype=torch.float64)
    one = scale_for(weight, 1.0)
    exact = torch.linalg.cholesky(posterior(weight, one))
    for factor in FACTORS:
        yield Pair(f"exact posterior, σ × {factor}", weight, one, factor * exact)
    for kl in KLS:
        scale = scale_for(weight, kl)
        variances = best_mean_field(posterior(weight, scale))
        yield Pair(f"best mean-field, KL {kl}", weight, scale, variances.sqrt().diag())


def part_of(result: Importance, rows: slice) -> Importance:
    """The estimates of some of the images."""
    return Importance(
        samples=result.samples,
        log_p=result.log_p[rows],
        errors=result.errors[rows],
        effective=result.effective[rows],
        pareto_k=result.pareto_k[rows],
        elbos=result.elbos[rows],
        elbo_errors=result.elbo_errors[rows],
        curve={k: each[rows] for k, each in result.curve.items()},
        rises=result.rises[:, rows],
    )


def measure(pair: Pair, repetitions: int, images: int, draws: int, seed: int) -> dict[str, object]:
    """Coverage of the 95 % intervals over repetitions, of each image and of the mean."""
    x, truth = pair.images(repetitions * images, seed)
    with pyro.validation_enabled(False):
        result = importance(pair.model, pair.guide, Images(x), samples=draws, seed=seed)
    bias = result.log_p - truth
    covered = bias.abs() < 1.96 * result.errors
    small = result.pareto_k <= result.limit
    rows = []
    for start in range(0, len(x), images):
        cut = slice(start, start + images)
        part = part_of(result, cut)
        error = part.monte_carlo_error
        rows.append((
            covered[cut].double().mean().item(),
            float(abs(bias[cut].mean().item()) < 1.96 * error),
            float(part.trusted),
            float(part.covers(error)),
            part.bias,
        ))  # fmt: skip
    each, mean, trusted, printed, _ = torch.tensor(rows, dtype=torch.float64).T

    def share(values: Tensor, chosen: Tensor) -> float | None:
        return round(values[chosen > 0].mean().item(), 3) if chosen.any() else None

    return {
        "latents": len(pair.spread),
        "guide": pair.name,
        "bias": round(bias.mean().item(), 4),
        "estimated_bias": round(sorted(row[4] for row in rows)[len(rows) // 2], 4),
        "pareto_k": round(result.pareto_k.clamp_min(-1).mean().item(), 2),
        "coverage_of_images": share(each, torch.ones_like(each)),
        "coverage_of_means": share(mean, torch.ones_like(mean)),
        "coverage_of_images_with_small_k": share(covered.double(), small),
        "images_trusted": round(trusted.mean().item(), 3),
        "coverage_of_trusted_images": share(each, trusted),
        "means_trusted": round(printed.mean().item(), 3),
        "coverage_of_trusted_means": share(mean, printed),
    }


def pooled(rows: list[dict[str, object]], what: str) -> float:
    """The coverage of all that is called trusted, over all guides."""
    weights = [float(str(r[f"{what}_trusted"])) for r in rows]
    covers = [float(str(r[f"coverage_of_trusted_{what}"] or 0)) for r in rows]
    return round(sum(w * c for w, c in zip(weights, covers, strict=True)) / sum(weights), 3)


def table() -> str:
    """The table of docs/evaluation.md."""
    result = json.loads(RESULTS.read_text())
    lines = [
        "| latents, guide | bias | covers: image, mean | trusted: images, means "
        "| covers if trusted |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in result["rows"]:
        both = [r["coverage_of_trusted_images"], r["coverage_of_trusted_means"]]
        lines.append(
            f"| {r['latents']}, {r['guide']} | {r['bias']:.4f} "
            f"| {r['coverage_of_images']:.2f}, {r['coverage_of_means']:.2f} "
            f"| {r['images_trusted']:.0%}, {r['means_trusted']:.0%} "
            f"| {', '.join('none' if c is None else f'{c:.2f}' for c in both)} |"
        )
    images, means = result["coverage_of_all_trusted"].values()
    lines.append(f"| all that is trusted |  |  |  | {images:.2f}, {means:.2f} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    torch.set_num_threads(1)
    rows = []
    for size in LATENTS:
        for number, pair in enumerate(pairs(size)):
            rows.append(measure(pair, REPETITIONS, IMAGES, DRAWS, seed=100 * size + number))
            print(rows[-1], flush=True)
    result = {
        "protocol": f"{REPETITIONS} repetitions of {IMAGES} images, K = {DRAWS}, 95 % intervals: "
        "of each image with its own error, and of the mean with the error of the draws",
        "command": "python benchmarks/coverage.py",
        "versions": {name: version(name) for name in ("torch", "pyro-ppl")},
        "coverage_of_all_trusted": {what: pooled(rows, what) for what in ("images", "means")},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
