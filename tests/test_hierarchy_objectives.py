"""Every objective on three layers of latents: the loss by hand at equal noise, or a refusal."""

from __future__ import annotations

from math import log

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from support.deep import LAYERED, close, deep
from support.density import digits
from torch.distributions import kl_divergence

from pyro_vae import VAE, InputError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.priors.hierarchy import SharedConditionals

NAMES = ("z_1", "z_2", "z_3")
ONE = "is for one latent site; these are z_., z_2, z_."
ORDER = "the guide draws 'z_1' where the model draws 'z_3'"
REFUSED = {
    "closed-form": "prior at site 'z_2' has other moments: take the analytic objective",
    "beta-tc": f"beta-tc {ONE}",
    "infovae": f"infovae {ONE}",
    "dip": f"dip {ONE}",
    "enumerate": "no discrete latent to sum out; take the monte-carlo objective",
    "m2": "no discrete latent to sum out; take the monte-carlo objective",
    "m2-real": "m2-real is for a guide that infers real targets",
}


def refusal(name, guide):
    """What a row says of a guide of three layers; None if it takes it."""
    if name in ("analytic", "closed-form") and guide == "bottom-up":
        return ORDER
    return REFUSED.get(name)


def objective(spec, epoch=2.5):
    made = OBJECTIVES.build(spec, data_size=40)
    made.advance(epoch)
    return made


class Parts:
    """log p(x | z), and log q, log p and distributions of each layer, ``[K, B]`` each, from one run
    of both programs under a seed."""

    def __init__(self, vae, x, draws, seed=0):
        pyro.set_rng_seed(seed)
        with pyro.plate("draws", draws, dim=-2):
            q = poutine.trace(vae.guide).get_trace(x)
            p = poutine.trace(poutine.replay(vae.model, trace=q)).get_trace(x)
        q.compute_log_prob()
        p.compute_log_prob()
        self.images, self.draws = len(x), draws
        self.log_likelihood = p.nodes["x"]["log_prob"]
        self.kl = {n: q.nodes[n]["log_prob"] - p.nodes[n]["log_prob"] for n in NAMES}
        self.q = {n: q.nodes[n]["fn"] for n in NAMES}
        self.p = {n: p.nodes[n]["fn"] for n in NAMES}
        self.log_weight = self.log_likelihood - sum(self.kl.values())

    def mean(self, each):
        """Sum over images of the mean over draws."""
        return each.expand(self.draws, -1).mean(0).sum()

    def weighed(self, by_site):
        """The loss with a weight for each layer's KL."""
        return self.mean(sum(by_site[n] * self.kl[n] for n in NAMES) - self.log_likelihood)

    def held(self, of_mean):
        """The loss with a function of each layer's mean KL in its place."""
        total = sum(of_mean(n, self.kl[n].mean()) for n in NAMES)
        return self.images * total - self.mean(self.log_likelihood)

    def analytic(self):
        return sum(self.mean(kl_divergence(self.q[n], self.p[n])) for n in NAMES)


def all_sites(weight):
    return dict.fromkeys(NAMES, weight)


BY_HAND = {
    "monte-carlo": lambda t: -t.mean(t.log_weight),
    "analytic": lambda t: t.analytic() - t.mean(t.log_likelihood),
    "beta": lambda t: t.weighed(all_sites(4)),
    "annealed": lambda t: t.weighed(all_sites(0.25)),
    "cyclical": lambda t: t.weighed(all_sites(0.5)),
    "capacity": lambda t: (
        t.images * 1000 * (sum(t.kl.values()).mean() - 6.25).abs() - t.mean(t.log_likelihood)
    ),
    "free-bits": lambda t: t.held(lambda n, kl: kl.clamp(min=2)),
    "iwae": lambda t: -(t.log_weight.logsumexp(0) - log(5)).sum(),
    "miwae": lambda t: -(t.log_weight.unflatten(0, (5, 5)).logsumexp(0) - log(5)).mean(0).sum(),
    "stl": lambda t: -t.mean(t.log_weight),
    "dreg": lambda t: -(t.log_weight.logsumexp(0) - log(5)).sum(),
}
PATH = {"stl": "monte-carlo", "dreg": "iwae"}  # another gradient of the same loss


def gradients(loss, vae):
    return torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)


@pytest.mark.parametrize("guide", LAYERED)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_one_written_out_and_falls_or_is_refused(name, guide):
    vae, x = deep(guide), digits(8, dtype=torch.float64)
    made = objective(name)
    if message := refusal(name, guide):
        with pytest.raises(InputError, match=message) as error:
            made.loss_and_grads(vae.model, vae.guide, x)
        assert "\n" not in str(error.value)
        return
    made.loss(vae.model, vae.guide, x)
    truth = BY_HAND[name](Parts(vae, x, made.num_particles))
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x)
    close(loss, truth)
    found = gradients(loss, vae)
    if name != "free-bits":  # a layer below its floor is not pulled
        assert all(g is not None and g.abs().sum() > 0 for g in found)
    if name not in PATH:
        close(found, gradients(truth, vae), 1e-8)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=made)

    def now():
        return sum(svi.evaluate_loss(x) for _ in range(5)) / 5

    before = now()
    for _ in range(30):
        svi.step(x)
    assert now() < before - 10


def test_the_table_is_covered():
    assert BY_HAND.keys() | REFUSED.keys() == OBJECTIVES.keys()


WEIGHTS = {"z_1": 0.5, "z_2": 2.0, "z_3": 0.0}


@pytest.mark.parametrize("guide", LAYERED)
@pytest.mark.parametrize(
    ("spec", "truth"),
    [
        ("beta(beta={})", lambda t: t.weighed(WEIGHTS)),
        (
            "annealed(beta={}, epochs=10, start=1.0)",
            lambda t: t.weighed({n: 1 + 0.25 * (w - 1) for n, w in WEIGHTS.items()}),
        ),
        (
            "cyclical(beta={}, epochs=2, ratio=1.0)",
            lambda t: t.weighed({n: 0.25 * w for n, w in WEIGHTS.items()}),
        ),
        ("free-bits(nats={})", lambda t: t.held(lambda n, kl: kl.clamp(min=WEIGHTS[n]))),
        (
            "capacity(nats={}, gamma=7)",
            lambda t: t.held(lambda n, kl: 7 * (kl - 0.25 * WEIGHTS[n]).abs()),
        ),
    ],
)
def test_each_layer_has_its_own_weight_or_floor(spec, truth, guide):
    vae, x = deep(guide), digits(8, dtype=torch.float64)
    made = objective(spec.format(WEIGHTS))
    by_hand = truth(Parts(vae, x, 1))
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x)
    close(loss, by_hand)
    close(gradients(loss, vae), gradients(by_hand, vae), 1e-8)


@pytest.mark.parametrize("guide", LAYERED[1:])
def test_free_bits_of_each_unit(guide):
    vae, x = deep(guide), digits(8, dtype=torch.float64)
    floors = {"z_1": 0.3, "z_2": 0.02, "z_3": 0.2}
    t = Parts(vae, x, 1)
    units = {
        n: kl_divergence(t.q[n].base_dist, t.p[n].base_dist).expand(1, 8, -1).mean((0, 1))
        for n in NAMES
    }
    below = [bool((kl < floors[n]).any()) for n, kl in units.items()]
    assert any(below)
    assert any((kl > floors[n]).any() for n, kl in units.items())
    truth = 8 * sum(kl.clamp(min=floors[n]).sum() for n, kl in units.items())
    made = objective(f"free-bits(nats={floors}, group_size=1, kl='analytic')")
    pyro.set_rng_seed(0)
    loss = made.differentiable_loss(vae.model, vae.guide, x)
    close(loss, truth - t.mean(t.log_likelihood))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("beta(beta={'z_1': 1, 'z_2': 1})", "names the latent sites z_1, z_2, and there is also z"),
        ("free-bits(nats={'z': 1})", "nats names 'z', and the latent sites are z_3, z_2, z_1"),
        ("free-bits(group_size=2)", "does not fit site 'z_2', which has 3 units"),
        ("free-bits(group_size=1, kl='closed-form')", "prior at site 'z_2' has other moments"),
    ],
)
def test_weights_and_groups_that_do_not_fit_are_refused(spec, message):
    vae, x = deep(), digits(4, dtype=torch.float64)
    with pytest.raises(InputError, match=message):
        objective(spec).loss(vae.model, vae.guide, x)


@pytest.mark.parametrize("guide", LAYERED)
def test_a_scale_or_a_mask_around_both_programs_weighs_images(guide):
    vae, x = deep(guide), digits(4, dtype=torch.float64)
    factors = torch.tensor([2.0, 0.5, 3.0, 1.0])
    seen = torch.tensor([True, False, True, False])

    def loss(spec, around):
        pyro.set_rng_seed(0)
        return objective(spec).loss(around(vae.model), around(vae.guide), x)

    for spec in ("monte-carlo", "beta(beta=1)", "iwae", "stl", "dreg"):
        plain = loss(spec, lambda program: program)
        close(loss(spec, lambda program: poutine.scale(program, scale=0.25)), 0.25 * plain)
        if objective(spec).num_particles == 1:
            pyro.set_rng_seed(0)
            each = -objective(spec).elbo(vae.model, vae.guide, x)
            scaled = loss(spec, lambda program: poutine.scale(program, scale=factors))
            close(scaled, (factors * each).sum().item())
            masked = loss(spec, lambda program: poutine.mask(program, mask=seen))
            close(masked, each[seen].sum().item())
    with pytest.raises(InputError, match=r"site 'z_.' has the scale 2 in the model and 1 in the g"):
        objective("beta").loss(poutine.scale(vae.model, scale=2.0), vae.guide, x)


@pytest.mark.parametrize("guide", LAYERED)
@pytest.mark.parametrize(
    ("plain", "quiet"), [("monte-carlo(num_particles=3)", "stl(num_particles=3)"), ("iwae", "dreg")]
)
def test_path_gradients_have_the_mean_of_the_plain_ones(plain, quiet, guide):
    """In the ladder the prior's weights are the guide's as well, so that both ways count."""
    vae = deep(guide, (2, 2), shape=(1, 3, 3), hidden=(4,), prior="hierarchy(skip=True)")
    x = torch.rand(1, 1, 3, 3, dtype=torch.float64).round().expand(400, -1, -1, -1)
    runs = 25
    found = {}
    for spec in (plain, quiet):
        made, each = objective(spec), []
        for seed in range(runs):
            pyro.set_rng_seed(seed)
            loss = made.differentiable_loss(vae.model, vae.guide, x) / len(x)
            each.append(torch.cat([g.flatten() for g in gradients(loss, vae)]))
        found[spec] = torch.stack(each)
    a, b = found.values()
    error = ((a.var(0) + b.var(0)) / runs).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error + 1e-12).all()
    own = [n.startswith("model.prior") for n, p in vae.named_parameters() for _ in range(p.numel())]
    clear = a.mean(0).abs() > 8 * error
    assert (clear & torch.tensor(own)).sum() > 10  # there was something to agree on
    assert clear.sum() > 50


def test_the_default_objective_of_a_vae_is_the_plain_elbo_of_all_layers():
    vae = VAE((1, 8, 8), (3, 2), guide="ladder", hidden=(8,))
    x = digits(4)
    pyro.set_rng_seed(0)
    each = objective("monte-carlo").elbo(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    close(each.sum().item(), -objective("monte-carlo").loss(vae.model, vae.guide, x), 1e-5)


@pytest.mark.parametrize("guide", LAYERED[1:])
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - set(REFUSED)))
def test_what_a_ladder_has_computed_the_model_does_not_compute_again(name, guide, monkeypatch):
    """And gets the same loss and the same gradients by it."""
    vae, x = deep(guide, prior="hierarchy(skip=True)"), digits(5, dtype=torch.float64)
    calls = []
    vae.model.prior.down[0].register_forward_hook(lambda *_: calls.append(1))
    found = []
    for times in (1, 2):
        pyro.set_rng_seed(0)
        made = objective(name)
        made._guess_max_plate_nesting(vae.model, vae.guide, (x,), {})
        calls.clear()
        loss = made.differentiable_loss(vae.model, vae.guide, x)
        assert len(calls) == times
        found.append([loss.detach(), *torch.autograd.grad(loss, list(vae.parameters()))])
        monkeypatch.setattr(SharedConditionals, "put", lambda *_: None)
    close(*found)
