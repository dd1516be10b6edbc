"""Labels that are partly missing: the bound of both kinds of rows against the sums written out."""

from __future__ import annotations

import re
from math import isnan, log

import numpy as np
import pyro
import pytest
import torch
from support.commands import TINY, typed
from support.density import SHAPE, digits
from torch.distributions import Normal

from pyro_vae import VAE, InputError, evaluate, fit
from pyro_vae.data import Images, load_data
from pyro_vae.data.labelled import some_labels
from pyro_vae.evaluation.calibration import accuracy, calibration_error, predictions
from pyro_vae.labels import LabelPosterior, LabelPrior
from pyro_vae.objectives import Enumerate, SemiSupervised
from pyro_vae.runs.folder import load_run

K, Z, B = 3, 2, 6
LABELS = torch.tensor([2, 0, 1, -1, -1, -1])


def semi(**settings) -> VAE:
    return VAE(SHAPE, Z, **{"guide": "labelled", "condition": K, "hidden": (8,)} | settings)


def by_hand(vae: VAE, x, labels, weight: float):
    """The loss of M2 in float64 as its equation, with the noise of seed 0."""
    part, decoder = vae.guide.posterior, vae.model.likelihood.decoder
    log_q = part.classifier(x).log_softmax(-1)  # [B, K]
    torch.manual_seed(0)
    noise = torch.randn(K, len(x), Z, dtype=torch.float64)
    total = 0.0
    for b, known in enumerate(labels.tolist()):
        bounds = []
        for k in range(K):
            y = torch.eye(K, dtype=torch.float64)[k]
            h = part.mix(torch.cat([part.encoder(x[b : b + 1])[0], y]))
            loc, logvar = part.z.head(h).chunk(2)
            q = Normal(loc, (logvar / 2).exp())
            z = loc + (logvar / 2).exp() * noise[k, b]
            logits = decoder(torch.cat([z, y])[None])[0]
            log_x = -torch.nn.functional.binary_cross_entropy_with_logits(
                logits, x[b], reduction="sum"
            )
            kl = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum()
            bounds.append(kl - log_x + log(K))  # L(x, y)
        if known >= 0:
            total = total + bounds[known] - weight * log_q[b, known]
        else:
            q_y = log_q[b].exp()
            total = total + sum(q_y[k] * (bounds[k] + log_q[b, k]) for k in range(K))
    return total


@pytest.mark.parametrize("labels", [LABELS, LABELS.clamp(max=-1), LABELS.abs()], ids=str)
def test_loss_and_gradients_are_those_of_both_sums_written_out(labels):
    vae, x = semi().double(), digits(B, dtype=torch.float64)
    objective = SemiSupervised(data_size=60, labelled=3, alpha=0.5)
    truth = by_hand(vae, x, labels, weight=0.5 * 60 / 3)
    expected = torch.autograd.grad(truth, list(vae.parameters()))
    objective.loss(vae.model, vae.guide, x, labels)  # finds the depth of the plates
    for loss in (objective.loss, objective.loss_and_grads):
        pyro.set_rng_seed(0)
        assert loss(vae.model, vae.guide, x, labels) == pytest.approx(truth.item(), rel=1e-12)
    for p, grad in zip(vae.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-9, atol=1e-9)


def test_without_a_label_it_is_the_enumerated_elbo_and_the_default_has_no_context():
    vae, x = semi().double(), digits(B, dtype=torch.float64)
    losses = []
    for objective, labels in (
        (Enumerate(), ()),
        (SemiSupervised(60, 3), ()),
        (SemiSupervised(60, 3), (torch.full((B,), -1),)),
    ):
        objective.loss(vae.model, vae.guide, x, *labels)
        pyro.set_rng_seed(0)
        losses.append(objective.loss(vae.model, vae.guide, x, *labels))
    assert losses[0] == pytest.approx(losses[1], rel=1e-14)
    assert losses[1] == losses[2]


def test_a_known_label_is_a_point():
    label = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    q = LabelPosterior(torch.tensor([[5.0, -9.0, 2.0], [1.0, 2.0, 3.0]]), label)
    assert torch.equal(q.probs[0], label[0])
    assert torch.equal(q.log_prob(torch.eye(3)[:, None]).exp()[:, 0], label[0])
    torch.testing.assert_close(q.probs[1], torch.tensor([1.0, 2.0, 3.0]).softmax(-1))
    for fn in (q, LabelPrior(torch.zeros(3), label), q.expand((4, 2))):
        assert (fn.sample((50,))[..., 0, :] == label[0]).all()
    prior = LabelPrior(torch.zeros(3), label)
    assert prior.log_prob(label[0])[0].item() == pytest.approx(-log(3))
    drawn = prior.sample((2000,))[:, 1].mean(0)
    assert ((drawn - 1 / 3).abs() < 5 * (2 / 9 / 2000) ** 0.5).all()


def test_draws_have_the_label_that_is_given():
    vae = semi(condition=["ant", "bee", "cat"])
    seen = []
    vae.model.likelihood.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = digits(B)
    for make in (
        lambda: vae.sample(4, given="bee"),
        lambda: vae.decode({"z": torch.zeros(4, Z)}, "bee"),
        lambda: vae.reconstruct(x, given=1),
        lambda: vae.reconstruct(x, LABELS, given="bee"),
        lambda: vae.traverse(x[0], steps=3, given=1),
        lambda: vae.interpolate(x[0], x[1], 3, given=1),
        lambda: vae.reconstruct(x, "bee"),
    ):
        make()
        assert torch.equal(seen[-1][:, Z:].argmax(-1), torch.ones(len(seen[-1])).long())
        assert (seen[-1][:, Z:].sum(-1) == 1).all()


def test_a_reconstruction_as_another_class_keeps_z():
    """Both decode the same draw of z."""
    vae, x, seen = semi(), digits(B), []
    vae.model.likelihood.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for given in (None, 2):
        torch.manual_seed(0)
        vae.reconstruct(x, torch.zeros(B).long(), given=given)
    assert torch.equal(seen[0][:, :Z], seen[1][:, :Z])
    assert torch.equal(seen[0][:, Z:].argmax(-1), torch.zeros(B).long())


def test_predictions_ignore_no_pixel_and_sum_to_one():
    vae, x = semi(), digits(B)
    expected = vae.guide.posterior.classifier(x).softmax(-1)
    torch.testing.assert_close(vae.predict(x), expected)
    with pytest.raises(InputError, match="the guide of this VAE infers none"):
        VAE(SHAPE, Z, condition=K, hidden=(8,)).predict(x)


def test_accuracy_and_calibration_error_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 1, 0])
    share, error = accuracy(probs, labels)
    assert (share, error) == (0.5, pytest.approx(0.25))
    for rows in (slice(0, 2), slice(0, 1), slice(2, 4)):  # all are right, or none
        assert isnan(accuracy(probs[rows], labels[rows])[1])
    assert isnan(calibration_error(probs[:1], labels[:1])[1])
    # three bins: 0.9 is right, 0.7 is right in one of two, 0.8 is wrong
    truth = (abs(1 - 0.9) + 2 * abs(0.5 - 0.7) + abs(0 - 0.8)) / 4
    found, spread = calibration_error(probs, labels)
    assert found == pytest.approx(truth, abs=1e-7)
    assert spread > 0
    random = torch.rand(20_000).clamp(0.5)
    calibrated = torch.stack([random, 1 - random], -1)
    right = torch.where(torch.rand(20_000) < random, 0, 1)
    found, spread = calibration_error(calibrated, right)
    assert found < 0.015
    assert 0 < spread < 0.005


def test_labels_that_stay_are_balanced_and_nested():
    labels = torch.arange(10).repeat(30)[torch.randperm(300)]
    some, more = some_labels(labels, 53, seed=1), some_labels(labels, 100, seed=1)
    counts = [(some == k).sum().item() for k in range(10)]
    assert set(counts) == {5, 6}
    assert sum(counts) == 53
    known = some >= 0
    assert torch.equal(some[known], labels[known])
    assert (more[known] >= 0).all()
    assert not torch.equal(known, some_labels(labels, 53, seed=2) >= 0)
    for count in (9, 301, 2.5, True):
        with pytest.raises(InputError, match="whole number from 10, one for each class, to 300"):
            some_labels(labels, count, seed=0)


def test_training_with_few_labels_predicts_the_others():
    """100 labels of 1,438: a classifier by chance is right in 0.1 of the test images."""
    data = load_data("digits", binarize="threshold").labelled(100)
    vae = VAE.for_data(data, 8, guide="labelled", hidden=(64,))
    assert vae.config["condition"] == [str(k) for k in range(10)]
    fit(vae, data, epochs=15, lr=3e-3, compiled=False)
    share, _ = accuracy(*predictions(vae, data.test))
    assert share > 0.6
    table = evaluate(vae, data.test, samples=5)
    assert table["classification"]["accuracy"]["mean"] == share
    assert 0 < table["classification"]["calibration_error"]["error"] < 0.05


def test_a_label_that_is_not_known_or_not_seen_is_refused():
    x = digits(2)
    cvae = VAE(SHAPE, Z, condition=K, hidden=(8,))
    with pytest.raises(InputError, match="this VAE does not infer labels; take the guide labelled"):
        cvae.encode(x, torch.tensor([0, -1]))
    for vae in (cvae, semi()):
        with pytest.raises(InputError, match=r"the label 3 was never seen: .* 3 classes, 0 to 2"):
            vae.encode(x, torch.tensor([0, 3]))
        with pytest.raises(InputError, match="there is no class 'dog'; the classes are 0 to 2"):
            vae.sample(2, given="dog")
        data = (digits(40), torch.tensor([0] * 39 + [7]))
        with pytest.raises(InputError, match="the label 7 was never seen"):
            fit(vae, data, epochs=1, batch_size=8)
    data = load_data("digits", binarize="threshold").labelled(100)
    with pytest.raises(InputError, match="does not infer labels; take the guide labelled"):
        VAE.for_data(data, 2)
    with pytest.raises(InputError, match=r"for a VAE with a condition of classes"):
        VAE(SHAPE, Z, guide="labelled")
    with pytest.raises(InputError, match=r"for a VAE with a condition of classes"):
        VAE(SHAPE, Z, guide="labelled", condition=(3,))
    with pytest.raises(InputError, match="leave conditioned out"):
        semi(conditioned=("guide",))
    vae = VAE(SHAPE, K, guide="categorical", hidden=(8,))
    with pytest.raises(InputError, match="m2 is for a guide that infers labels"):
        SemiSupervised().loss(vae.model, vae.guide, x)


@pytest.fixture(scope="module")
def run_of_codes(tmp_path_factory):
    """A run that sees no label. Tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "m1"
    words = ["--binarize", "threshold", "--epochs", "1", "--no-compile"]
    assert typed([*TINY, *words, "--out", run]) == 0
    return run


@pytest.fixture(scope="module")
def few_labels(tmp_path_factory):
    """A run with 100 labels. Tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "m2"
    words = ["--recipe", "m2", "--known-labels", "100", "--epochs", "1", "--no-compile"]
    assert typed([*TINY, *words, "--out", run]) == 0
    return run


def test_the_commands_of_a_run_with_few_labels(few_labels, tmp_path, capsys):
    vae, config = load_run(few_labels)
    assert vae.infers_labels
    assert (config["data"]["labels"], config["data"]["labels_seed"]) == (100, 0)
    assert typed(["evaluate", few_labels, "--samples", "5"]) == 0
    said = capsys.readouterr()
    assert "accuracy of the most probable class" in said.out
    assert "expected calibration error, 15 bins" in said.out
    assert "are not those that the run was trained on" not in said.err
    assert (
        typed(["sample", few_labels, "--given", "7", "--n", "5", "--out", tmp_path / "x.npy"]) == 0
    )
    assert len(np.load(tmp_path / "x.npy")) == 5
    for words in (["encode", few_labels, "--out", tmp_path / "z.npz"], ["audit", few_labels]):
        assert typed(words) == 0


def test_evaluate_refuses_a_class_that_was_never_seen(few_labels, tmp_path, capsys):
    """Commands that read no label take the same data."""
    images = np.zeros((6, 8, 8), np.uint8)
    images[::2] = 255
    np.savez(tmp_path / "x.npz", images=images, labels=[3, 11, 3, 11, 3, 11])
    given = [few_labels, "--data", tmp_path / "x.npz"]
    short = ["--split", "all", "--samples", "5"]
    assert typed(["evaluate", *given, *short, "--figures", tmp_path / "figures"]) == 2
    assert "the class '11' was never seen in training; the classes are" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()
    assert typed(["encode", *given, "--out", tmp_path / "z.npz"]) == 0
    plain = VAE((2,), 2, likelihood="student-t", guide="labelled", condition=3, hidden=(4,))
    for label in (2, -1):
        assert evaluate(plain, Images(torch.randn(4, 2), torch.tensor([0, 1, 1, label])), samples=5)
    with pytest.raises(InputError, match="the label 3 was never seen"):
        evaluate(plain, Images(torch.randn(4, 2), torch.tensor([0, 1, 1, 3])), samples=5)


def test_a_run_with_few_labels_goes_on_as_if_it_had_not_stopped(tmp_path):
    words = [*TINY, "--recipe", "m2", "--known-labels", "50", "--no-compile", "--seed", "3"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert typed([*words, "--epochs", "2", "--out", whole]) == 0
    assert typed([*words, "--epochs", "1", "--out", parts]) == 0
    assert typed(["train", "--resume", parts, "--epochs", "2", "--no-compile"]) == 0
    one, two = (load_run(run)[0].state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--known-labels", "all"], "--known-labels is for a guide that infers labels"),
        (["--recipe", "m2", "--known-labels", "few"], "--known-labels takes a number, such as 100"),
        (["--recipe", "m2", "--known-labels", "5"], "whole number from 10, one for each class"),
        (["--recipe", "m2", "--condition", "label"], "give one of the two"),
        (["--guide", "labelled", "--condition", "label"], "take --known-labels all"),
        (["--condition", "age"], "--condition is label"),
        (["--prior", "conditional"], "is for a VAE with a condition"),
        (["--guide", "labelled"], "is for a VAE with a condition of classes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, message, tmp_path, capsys):
    assert typed([*TINY, *words, "--out", tmp_path / "run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_labels_of_one_class_are_refused_where_they_are_used(few_labels, tmp_path, capsys):
    """They may be beside the rows, and other rows for a run may have one class."""
    images = np.random.RandomState(0).randint(2, size=(40, 8, 8)).astype(bool)
    data = tmp_path / "x.npz"
    np.savez(data, images=images, labels=["3"] * 39 + [""])
    words = ["train", "--data", data, "--hidden", "4", "--latent", "2", "--no-compile"]
    words += ["--epochs", "1", "--binarize", "threshold", "--out", tmp_path / "run"]
    for use in (["--recipe", "m2"], ["--recipe", "m2", "--known-labels", "5"]):
        assert typed([*words, *use]) == 2
        said = capsys.readouterr().err
        assert re.search(r"the label is '3' in all \d+ training images where it is known", said)
    np.savez(data, images=images, labels=["3"] * 40)
    for use in (["--condition", "label"], ["--condition", "label", "--likelihood", "bernoulli"]):
        assert typed([*words, *use]) == 2
        assert "nothing can be learned of one class" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert typed(words) == 0
    short = ["--data", data, "--split", "all", "--samples", "5"]
    assert typed(["evaluate", few_labels, *short]) == 0
    labels = torch.zeros(4, dtype=torch.int64)
    some = Images(torch.rand(4, 1, 3, 3), context=labels, labels=labels)
    with pytest.raises(InputError, match="the label is 0 in all 4 training images"):
        VAE.for_data(some, 2)
    assert VAE.for_data(some, 2, condition=3).model.condition.classes == 3


def test_the_codes_of_a_run_are_data_with_labels(run_of_codes, tmp_path, capsys):
    """M1+M2: the posterior means of one VAE, and their labels, train another."""
    codes = {}
    for split in ("train", "test"):
        codes[split] = tmp_path / f"{split}.npz"
        assert typed(["encode", run_of_codes, "--split", split, "--out", codes[split]]) == 0
    own, data = (
        load_data("digits", binarize="threshold"),
        load_data(codes["train"], test_fraction=0),
    )
    assert data.train.classes == own.train.classes
    assert torch.equal(data.train.labels, own.train.labels)
    vae, _ = load_run(run_of_codes)
    loc = vae.encode(own.train.batch(slice(0, 50))).mean.detach()
    torch.testing.assert_close(data.train.pixels[:50], loc)
    words = [
        "train",
        "--data",
        codes["train"],
        "--recipe",
        "m2",
        "--known-labels",
        "50",
        "--no-compile",
    ]
    assert typed([*words, "--latent", "2", "--epochs", "1", "--out", tmp_path / "m2"]) == 0
    words = ["--data", codes["test"], "--split", "all", "--samples", "5"]
    assert typed(["evaluate", tmp_path / "m2", *words]) == 0
    assert "accuracy of the most probable class" in capsys.readouterr().out


def test_a_label_that_is_an_empty_word_is_missing(tmp_path):
    x = np.random.RandomState(0).randn(4, 3)
    np.savez(tmp_path / "x.npz", images=x, labels=np.array(["b", "", "a", ""]))
    images = load_data(tmp_path / "x.npz", test_fraction=0).train
    assert images.classes == ("a", "b")
    assert images.labels.tolist() == [1, -1, 0, -1]
    np.savez(tmp_path / "x.npz", images=x, labels=np.array([""] * 4))
    assert load_data(tmp_path / "x.npz", test_fraction=0).train.labels is None


def test_labels_of_which_nothing_can_be_learned_are_refused():
    x = torch.randn(8, 5)
    for labels, told in (
        (torch.full((8,), -1), "the label is known in none of the 8 training rows"),
        (torch.arange(8) + 300_000, "the largest is 300007, so there would be more classes"),
    ):
        images = Images(x, labels=labels, context=labels)
        with pytest.raises(InputError, match=told):
            VAE.for_data(images, 2, guide="labelled")


@pytest.mark.parametrize(
    ("part", "given", "told"),
    [
        ("labels", np.arange(8), "labels are a tensor with a row for each observation"),
        ("labels", torch.rand(8), r"labels are whole numbers .* real numbers are targets \[8, n\]"),
        ("targets", np.ones((8, 1)), "targets are a tensor with a row for each observation"),
        ("pixels", torch.rand(8, 5) * 1j, "pixels are real numbers, not complex"),
    ],
)
def test_images_of_another_type_are_refused(part, given, told):
    with pytest.raises(InputError, match=told):
        Images(**{"pixels": torch.rand(8, 5)} | {part: given})
