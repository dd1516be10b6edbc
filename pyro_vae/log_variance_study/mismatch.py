"""Claim 9: exp(log σ²) taken as σ where z is drawn, and as σ² in the KL."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..data import Data
from ..evaluation import elbo
from ..evaluation.importance import importance
from ..guides import MeanField
from ..networks import MLP
from ..training import adam
from ..vae import VAE
from .base import Numbers, Setting, Verdict, digits, interval


class Slip(nn.Module):
    """A VAE's loss with or without the slip, in nats per image.

    Equation: -log p(x | μ + s ε) + KL(N(μ, exp(raw)) || N(0, 1)), with s = exp(½ raw) as it should
    be, or s = exp(raw).
    """

    def __init__(self, slip: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        shape, hidden = (1, 28, 28), (100,)
        # What the slip draws from is the guide whose raw output is log σ: N(μ, exp(raw)²).
        posterior = MeanField(
            MLP(shape, hidden).encoder(), 10, "log-scale" if slip else "log-variance"
        )
        self.vae = VAE(shape, 10, guide=posterior, hidden=hidden)
        self.posterior = posterior

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x | z) and the KL that the code believes in, each ``[B]``."""
        loc, raw = self.posterior.head(self.posterior.encoder(x)).chunk(2, -1)  # each [B, Z]
        z = loc + self.posterior.scale(raw) * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + raw.exp() - 1 - raw).sum(-1)  # raw as log σ², in both cases
        return self.vae.model.likelihood(z).log_prob(x), kl


def trained(slip: bool, data: Data, epochs: int, samples: int, seed: int) -> Numbers:
    """Train, and give the bound that the code believes in next to the guide's own, on test."""
    model = Slip(slip, seed)
    optimizer = adam(model, 2e-3)
    torch.manual_seed(seed)
    for _ in range(epochs):
        for x in data.train.batches(100, shuffle=True):
            likelihood, kl = model.terms(x)
            (kl - likelihood).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        believed = [
            torch.stack([torch.stack(model.terms(x)) for _ in range(10)]).mean(0)
            for x in data.test.batches(500, generator=generator)
        ]
    likelihood, kl = torch.cat(believed, -1)  # each [N]
    vae = model.vae
    own = elbo(vae.model, vae.guide, data.test, samples=10, seed=seed, analytic=True)
    return {
        "believed": (likelihood - kl).mean().item(),
        "believed_kl": kl.mean().item(),
        "elbo": own.elbo,
        "kl": own.kl,
        "log_likelihood": importance(
            vae.model, vae.guide, data.test, samples=samples, seed=seed
        ).mean,
    }


def conjugate(best: Tensor) -> dict[str, list[float]]:
    """The same slip where log p(x) is known: z ~ N(0, 1), x ~ N(z, s²), σ* = ``best``.

    With s the scale that is drawn and a = 1/σ*², the believed bound is, up to a constant,
    -½ (a - 1) s² - ½ (s - 1 - log s); its optimum solves 2 (a - 1) s² + s - 1 = 0. The true bound
    is -½ a s² + ½ + log s, largest at σ*, where it is log p(x).
    """
    a = 1 / best.square()
    drawn = 2 / (1 + (1 + 8 * (a - 1)).sqrt())
    believed = -0.5 * (a - 1) * drawn.square() - 0.5 * (drawn - 1 - drawn.log())
    true = -0.5 * a * drawn.square() + 0.5 + drawn.log()
    evidence = -0.5 * torch.ones_like(a) + 0.5 + best.log()
    return {
        "best": best.tolist(),
        "drawn": drawn.tolist(),
        "believed": (believed - evidence).tolist(),
        "true": (true - evidence).tolist(),
    }


def mismatch(setting: Setting) -> Numbers:
    """Claim 9: the bound that the slip believes in, and the one it has.

    The code draws z = μ + exp(raw) ε and writes the KL as if raw were log σ². What it draws from is
    N(μ, exp(raw)²), whose ELBO is the one it has. A 784-100-10 VAE on MNIST-5k, Adam 2e-3, batch
    100, 20 epochs, trained with and without the slip; test numbers in nats per image; log p(x) is
    the importance estimate with 200 samples. Intervals are over seeds, 95 %.

    Rule: the claim holds if believed minus actual ELBO is away from zero with the slip and not
    without it.
    """
    epochs = 2 if setting.quick else 20
    samples = 20 if setting.quick else 200
    data = digits(setting)
    numbers: Numbers = {
        "epochs": epochs,
        "conjugate": conjugate(10 ** torch.linspace(-3, -0.01, 60, dtype=torch.float64)),
    }
    cells = [(slip, seed) for slip in (False, True) for seed in range(setting.seeds)]
    for slip, seed in setting.track(cells, description="9 mismatch"):
        kind = "slip" if slip else "right"
        numbers.setdefault(kind, []).append(trained(slip, data, epochs, samples, seed))
    return numbers


def overstated(runs: list[Numbers]) -> tuple[float, float]:
    return interval([run["believed"] - run["elbo"] for run in runs])


def judge_mismatch(results: dict[str, Numbers]) -> Verdict:
    numbers = results["mismatch"]
    (with_slip, spread), (without, slack) = (overstated(numbers[k]) for k in ("slip", "right"))

    def told(kind: str, key: str) -> str:
        mean, half = interval([run[key] for run in numbers[kind]])
        return f"{mean:.1f} ± {half:.1f}"

    loss, half = interval([
        right["log_likelihood"] - slip["log_likelihood"]
        for right, slip in zip(numbers["right"], numbers["slip"], strict=True)
    ])  # fmt: skip
    known = numbers["conjugate"]
    above, at = max(zip(known["believed"], known["best"], strict=True))
    evidence = (
        f"With the slip the code believes in an ELBO of {told('slip', 'believed')} nats and has "
        f"{told('slip', 'elbo')}: {with_slip:.1f} ± {spread:.1f} too much (KL believed "
        f"{told('slip', 'believed_kl')}, actual {told('slip', 'kl')}); without it the two differ "
        f"by {without:.1f} ± {slack:.1f}. Its log p(x) is {told('slip', 'log_likelihood')}, "
        f"{loss:.1f} ± {half:.1f} below that of the right code. Where log p(x) is known, the "
        f"believed bound exceeds it by up to {above:.1f} nats in one dimension (σ* = {at:.2g})."
    )
    wrong, right = abs(with_slip) > spread, abs(without) > slack
    if wrong and not right:
        return Verdict("holds", evidence)
    return Verdict("does not hold", evidence)


def draw_mismatch(numbers: Numbers, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    known = numbers["conjugate"]
    left.plot(known["best"], known["believed"], color="C3", label="ELBO it believes in")
    left.plot(known["best"], known["true"], color="C0", label="ELBO it has")
    left.axhline(0, color="black", lw=0.8)
    left.set(xscale="log", xlabel="σ* of the exact posterior", ylabel="nats above log p(x)",
             title="one dimension, log p(x) known")  # fmt: skip
    left.legend()
    keys = {"believed": "ELBO believed", "elbo": "ELBO it has", "log_likelihood": "log p(x)"}
    for i, kind in enumerate(("right", "slip")):
        for j, (key, colour) in enumerate(zip(keys, ("C3", "C0", "0.4"), strict=True)):
            mean, half = interval([run[key] for run in numbers[kind]])
            right.errorbar(3 * i + 0.6 * j, mean, half, fmt="o", capsize=4, color=colour,
                           label=keys[key] if i == 0 else None)  # fmt: skip
    right.set_xticks([0.6, 3.6], ["right code", "exp(log σ²) as σ"])
    right.set(ylabel="nats per image, test (95 % over seeds)", title="VAE on MNIST-5k")
    right.legend()
