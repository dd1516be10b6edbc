"""One training step, written by hand and for each library in its documented idiom.

Every contender is made by ``make(case, images)`` and gives a function ``run(batches)``: one step
for each row of indices, data handling included (gather, binarise anew), and the mean loss in nats
per image. All have the same network, the same Adam and the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count, pairwise

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae.compiling import CompiledSVI, FusedAdam
from pyro_vae.data.images import Images
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.vae import VAE

LR = 1e-3


@dataclass(frozen=True)
class Case:
    """A network and a batch: hidden sizes of each block, latent sizes from the image upwards. More
    than one layer of latents are inferred by a ladder (Sønderby et al. 2016)."""

    hidden: tuple[int, ...] = (400,)
    latents: tuple[int, ...] = (20,)
    batch: int = 128
    particles: int = 1


CASES = {
    "VAE 784-400-20, batch 128": Case(),
    "VAE 784-400-20, batch 20": Case(batch=20),
    "IWAE 784-200-200-50, k = 50, batch 20": Case((200, 200), (50,), 20, 50),
    "ladder of 3, 784-200-32-16-8, batch 128": Case((200,), (32, 16, 8), 128),
}


def block(size: int, hidden: tuple[int, ...], out: int) -> nn.Sequential:
    sizes = [size, *hidden]
    layers = [m for a, b in zip(sizes, hidden, strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out))


class Net(nn.Module):
    """Encoders x -> z_1, features -> z_2, …; decoders z_L -> … -> z_1 -> x; torch only."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        up = [784, *[case.hidden[-1]] * (len(case.latents) - 1)]
        self.up = nn.ModuleList(block(s, case.hidden[:-1], case.hidden[-1]) for s in up)
        self.heads = nn.ModuleList(nn.Linear(case.hidden[-1], 2 * z) for z in case.latents)
        self.down = nn.ModuleList(
            block(above, case.hidden, 2 * z) for z, above in pairwise(case.latents)
        )
        self.out = block(case.latents[0], case.hidden, 784)

    def posterior(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for up, head in zip(self.up, self.heads, strict=True):
            x = up(x).relu()
            found.append(head(x).chunk(2, -1))
        return found


def binarise(pixels: Tensor) -> Tensor:
    return (torch.rand(pixels.shape, device=pixels.device) < pixels / 255).float()


# This library: a plain Pyro model and guide, or its own ladder


class Programs(Net):
    number = count()

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.name = f"net_{next(self.number)}"  # Pyro's store is one for all
        self.latent_size = case.latents[0]

    def model(self, x: Tensor) -> None:
        pyro.module(self.name, self)
        with pyro.plate("data", len(x), dim=-1):
            standard = dist.Normal(x.new_zeros(self.latent_size), 1.0)
            z = pyro.sample("z", standard.to_event(1))
            p_x = dist.Bernoulli(logits=self.out(z), validate_args=False)
            pyro.sample("x", p_x.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(self.name, self)
        with pyro.plate("data", len(x), dim=-1):
            ((mean, logvar),) = self.posterior(x)
            pyro.sample("z", dist.Normal(mean, (logvar / 2).exp()).to_event(1))


class Ladder:
    """The library's ladder, of the same layers as :class:`Net`."""

    def __init__(self, case: Case) -> None:
        self.vae = VAE((1, 28, 28), case.latents, guide="ladder", hidden=case.hidden)

    def model(self, x: Tensor) -> None:
        self.vae.model(x.view(-1, 1, 28, 28))

    def guide(self, x: Tensor) -> None:
        self.vae.guide(x.view(-1, 1, 28, 28))


def objective(case: Case) -> ELBO:
    return Trace_ELBO() if case.particles == 1 else OBJECTIVES["iwae"](case.particles)


def programs(case: Case) -> Programs | Ladder:
    torch.manual_seed(0)
    return Programs(case) if len(case.latents) == 1 else Ladder(case)


def ours(case: Case, images: Tensor):
    net = programs(case)
    svi = CompiledSVI(net.model, net.guide, FusedAdam({"lr": LR}), objective(case), binarise)
    return lambda batches: svi.epoch(images, batches).mean().item() / case.batch


def ours_from_images(case: Case, images: Tensor):
    """As ``fit`` does it: the pixels of an epoch are drawn at once."""
    data = Images(images.view(-1, 1, 28, 28), binarize="dynamic")
    pixels = torch.empty_like(images)
    net = programs(case)
    optim = FusedAdam({"lr": LR})
    svi = CompiledSVI(net.model, net.guide, optim, objective(case), lambda drawn: drawn / 255)

    def run(batches: Tensor) -> float:
        data.drawn(out=pixels.view(-1, 1, 28, 28))
        return svi.epoch(pixels, batches).mean().item() / case.batch

    return run


def pyro_svi(case: Case, images: Tensor):
    """Pyro's tutorial: SVI, pyro.optim.Adam, one Python call for each batch."""
    net = programs(case)
    adam = pyro.optim.Adam({"lr": LR})  # type: ignore[attr-defined]  # Pyro makes it at run time
    svi = SVI(net.model, net.guide, adam, loss=objective(case))

    def run(batches: Tensor) -> float:
        losses = [svi.step(binarise(images[index])) for index in batches]
        return sum(losses) / batches.numel()

    return run


# By hand in torch


def hand_loss(net: Net, case: Case, x: Tensor) -> Tensor:
    """Minus the importance-weighted bound (the ELBO if K = 1), summed over the batch."""
    k = case.particles
    log_w: Tensor | float = 0.0
    posteriors = net.posterior(x)
    mu, prior_logvar = torch.zeros(()), torch.zeros(())
    for i in reversed(range(len(posteriors))):
        mean, raw = posteriors[i]
        if len(posteriors) == 1:
            logvar = raw
        else:  # by the ratio of the precisions, the features' to the prior's
            ratio = prior_logvar.exp() / F.softplus(raw)
            mean = mu + ratio / (1 + ratio) * (mean - mu)
            logvar = prior_logvar - ratio.log1p()
        noise = torch.randn(k, *mean.shape) if k > 1 else torch.randn_like(mean)
        z = mean + noise * (logvar / 2).exp()
        log_w = log_w + 0.5 * (noise**2 + logvar).sum(-1)
        log_w = log_w - 0.5 * ((z - mu) ** 2 / prior_logvar.exp() + prior_logvar).sum(-1)
        if i > 0:
            mu, prior_logvar = net.down[i - 1](z).chunk(2, -1)
    logits = net.out(z)
    target = x.expand_as(logits)
    log_w = log_w - F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    return -log_w.sum() if k == 1 else -(log_w.logsumexp(0) - torch.tensor(float(k)).log()).sum()


def by_hand(case: Case, images: Tensor, compiled: bool):
    torch.manual_seed(0)
    net = Net(case)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)

    def loss_of(index: Tensor) -> Tensor:
        return hand_loss(net, case, binarise(images[index]))

    if compiled:
        loss_of = torch.compile(loss_of, fullgraph=True, options={"fallback_random": True})

    def run(batches: Tensor) -> float:
        total = torch.zeros(())
        for index in batches:
            loss = loss_of(index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / batches.numel()

    return run


def hand_eager(case: Case, images: Tensor):
    return by_hand(case, images, compiled=False)


def hand_compiled(case: Case, images: Tensor):
    return by_hand(case, images, compiled=True)


# NumPyro, as in its VAE example: stax networks, numpyro.module, a fori_loop under jit


def numpyro_loop(case: Case, images: Tensor):
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from jax.example_libraries import stax
    from numpyro.infer import SVI as NSVI
    from numpyro.infer import Trace_ELBO as NTrace

    if case.particles > 1 or len(case.latents) > 1:
        return None
    (hidden,), (latent,) = case.hidden, case.latents
    pixels = jnp.asarray(images.numpy())

    scale = stax.serial(stax.Dense(latent), stax.elementwise(lambda v: jnp.exp(v / 2)))
    heads = stax.parallel(stax.Dense(latent), scale)
    encode = stax.serial(stax.Dense(hidden), stax.Relu, stax.FanOut(2), heads)
    decode = stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(784))

    def model(batch):
        decoder = numpyro.module("decoder", decode, (case.batch, latent))
        with numpyro.plate("batch", case.batch):
            z = numpyro.sample("z", ndist.Normal(0, 1).expand([latent]).to_event(1))
            numpyro.sample("obs", ndist.Bernoulli(logits=decoder(z)).to_event(1), obs=batch)

    def guide(batch):
        encoder = numpyro.module("encoder", encode, (case.batch, 784))
        loc, scale = encoder(batch)
        with numpyro.plate("batch", case.batch):
            numpyro.sample("z", ndist.Normal(loc, scale).to_event(1))

    svi = NSVI(model, guide, numpyro.optim.Adam(LR), NTrace())
    key, first = jax.random.split(jax.random.PRNGKey(0))
    state = svi.init(first, jnp.zeros((case.batch, 784)))

    @jax.jit
    def epoch(state, key, batches):
        def body(i, carry):
            total, state, key = carry
            key, draw = jax.random.split(key)
            x = jax.random.bernoulli(draw, pixels[batches[i]] / 255.0).astype(jnp.float32)
            state, loss = svi.update(state, x)
            return total + loss, state, key

        return jax.lax.fori_loop(0, len(batches), body, (0.0, state, key))

    def run(batches: Tensor) -> float:
        nonlocal state, key
        total, state, key = epoch(state, key, jnp.asarray(batches.numpy()))
        return float(total) / batches.numel()

    return run


# pythae, as its trainer takes a step: the model's own loss, torch.optim.Adam, loss.item()


def pythae_step(case: Case, images: Tensor):
    if case.particles > 1 or len(case.latents) > 1 or find_spec("pythae") is None:
        return None
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    torch.manual_seed(0)
    net = Net(case)

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.up, self.head = net.up[0], net.heads[0]

        def forward(self, x):
            mean, logvar = self.head(self.up(x).relu()).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.out = net.out

        def forward(self, z):
            return ModelOutput(reconstruction=self.out(z).sigmoid())

    config = VAEConfig(input_dim=(784,), latent_dim=case.latents[0], reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    model.train()

    def run(batches: Tensor) -> float:
        total = 0.0
        for index in batches:
            output = model({"data": binarise(images[index])})
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            total += output.loss.item()  # a mean over the batch
        return total / len(batches)

    return run


def floor(case: Case, images: Tensor):
    """The matrix products of a step and nothing else: forward, and both of each backward."""
    net = Net(case)
    jobs = []
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            rows = case.batch * (case.particles if name.startswith(("out", "down")) else 1)
            first = name.startswith("up.0.0")
            x, g = torch.rand(rows, layer.in_features), torch.rand(rows, layer.out_features)
            jobs.append((x, g, layer.weight.detach(), first))

    def run(batches: Tensor) -> float:
        for _ in batches:
            for x, g, w, first in jobs:
                torch.mm(x, w.t())
                torch.mm(g.t(), x)
                if not first:
                    torch.mm(g, w)
        return 0.0

    return run


CONTENDERS = {
    "ours": ours,
    "hand-written, compiled": hand_compiled,
    "hand-written, eager": hand_eager,
    "Pyro SVI": pyro_svi,
    "pythae": pythae_step,
    "NumPyro": numpyro_loop,
    "matrix products alone": floor,
}


def tutorial_epoch(case: Case, folder: str):
    """Pyro's tutorial loop: torchvision's MNIST, ToTensor, a DataLoader; binarised by one line."""
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    net = programs(case)
    adam = pyro.optim.Adam({"lr": LR})  # type: ignore[attr-defined]  # Pyro makes it at run time
    svi = SVI(net.model, net.guide, adam, loss=Trace_ELBO())
    digits = MNIST(folder, train=True, transform=ToTensor())
    loader = torch.utils.data.DataLoader(digits, batch_size=case.batch, shuffle=True)

    def run(batches: Tensor) -> float:
        total = 0.0
        for x, _ in loader:
            total += svi.step(torch.bernoulli(x.view(-1, 784)))
        return total / len(digits)

    return run
