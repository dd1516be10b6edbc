"""A run folder from a stranger runs no code, takes no memory and ends in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.commands import typed
from support.pictures import GREYS, save

from pyro_vae import InputError, load_run
from pyro_vae.budget import Budget
from pyro_vae.data import load_data
from pyro_vae.registry import own_classes
from pyro_vae.runs.folder import read_history
from pyro_vae.runs.images import images_of

OLD = Path(__file__).parent / "data" / "old_run" / "mean_field"
CONFIG = json.loads((OLD / "config.json").read_text())


@pytest.fixture
def run(tmp_path):
    """A run folder that a test may spoil."""
    return shutil.copytree(OLD, tmp_path / "run")


def edit(run, part, name, value):
    config = json.loads((run / "config.json").read_text())
    config[part][name] = value
    (run / "config.json").write_text(json.dumps(config))


def refused(folder):
    """The sentence with which a folder is refused."""

    def read():
        load_run(folder)
        read_history(folder)

    with pytest.raises(InputError) as error:
        read()
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return sentence


# No code


MARK = "import pathlib; pathlib.Path('executed').touch()\n"
"""What a module of a stranger does when it is imported."""

SPECS = {
    ("vae", "prior"): "stranger:Prior",
    ("vae", "guide"): "mean-field(scale='stranger:Scale')",
    ("vae", "likelihood"): "stranger:Likelihood(width=3)",
    ("vae", "network"): "stranger:Net",
    ("training", "objective"): "stranger:Bound",
}
NESTED = "joint(categories=3, continuous=\"iaf(scale='stranger:Scale(initial=1)')\")"


@pytest.mark.parametrize(("place", "spec"), [*SPECS.items(), (("vae", "guide"), NESTED)])
def test_a_class_in_a_run_folder_is_imported_only_with_trust(run, monkeypatch, place, spec):
    monkeypatch.chdir(run.parent)
    monkeypatch.syspath_prepend(run.parent)
    (run.parent / "stranger.py").write_text(MARK)
    edit(run, *place, spec)
    said = refused(run)
    assert "names the class stranger:" in said
    assert "give trust=True" in said
    assert not Path("executed").exists()
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    if place[0] == "vae" and spec != NESTED:
        with pytest.raises(InputError, match="'stranger' has no"):
            load_run(run, trust=True)
        assert Path("executed").exists()


def test_every_command_that_opens_a_run_asks_for_trust(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    edit(run, "vae", "prior", "os:system(command='touch executed')")
    for command in ("sample", "reconstruct", "interpolate", "encode", "evaluate", "audit", "score"):
        assert typed([command, run]) == 2
        assert "--trust" in capsys.readouterr().err
    for ask in (
        ["train", "--resume", run, "--epochs", "3"],
        ["export", run],
        ["card", run],
        ["push", run, "me/run"],
    ):
        assert typed(ask) == 2
        assert "--trust" in capsys.readouterr().err
    assert os.listdir(run.parent) == ["run"]


OWN = """
from pyro_vae.priors import StandardNormal
class Mine(StandardNormal):
    "A prior of the user."
"""


def test_a_trusted_class_is_found_in_the_current_folder(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("ownprior.py").write_text(OWN)
    edit(run, "vae", "prior", "ownprior:Mine")
    assert typed(["sample", run, "--n", "1", "--trust"]) == 0
    assert sys.path[-1] == str(run.parent)
    assert load_run(run, trust=True)[0].model.prior.name() == "Mine"


def test_trust_belongs_to_the_run_of_somebody_else(tmp_path, capsys):
    assert typed(["train", "--data", "digits", "--trust", "--out", tmp_path / "run"]) == 2
    assert "--trust is for --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "start", [["-m", "pyro_vae"], ["-c", "from pyro_vae.cli import main; main()"]]
)
def test_a_file_in_the_current_folder_is_not_executed(tmp_path, start):
    for name in (
        "typing",
        "typing_extensions",
        "torch",
        "typer",
        "rich",
        "numpy",
        "json",
        "sklearn",
    ):
        (tmp_path / f"{name}.py").write_text(MARK)
    if start[0] == "-c":  # as the console script, whose folder Python puts first
        start = ["-P", *start]
    env = {**os.environ, "PYTHONPATH": str(OLD.parents[3])}
    done = subprocess.run(
        [sys.executable, *start, "list", "priors"], cwd=tmp_path, env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"standard-normal" in done.stdout
    assert not (tmp_path / "executed").exists()


def test_a_long_spec_is_read_in_time_that_grows_with_its_length(run):
    for spec in ("a" + " " * 500_000 + "!", "x" * 500_000, "x(" * 200_000):
        began = time.monotonic()
        edit(run, "vae", "prior", spec)
        refused(run)
        assert time.monotonic() - began < 5


def test_classes_are_found_at_any_depth():
    assert list(own_classes([{"a": ["x:A"]}, "p(q={'n': \"r(s='m:B')\"})", 3, None])) == [
        "x:A",
        "m:B",
    ]
    assert list(own_classes(["normal(scale=0.1)", "no name: at all"])) == []


# Damaged and absurd files


def weights_of(run):
    return load_file(run / "weights.safetensors")


def spoil_weights(change):
    def spoil(run):
        weights = weights_of(run)
        change(weights)
        save_file(weights, run / "weights.safetensors")

    return spoil


def write(name, content):
    return lambda run: (run / name).write_bytes(content)


def fifo(name):
    def spoil(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    return spoil


def folder_in_place_of(name):
    def spoil(run):
        (run / name).unlink()
        (run / name).mkdir()

    return spoil


def loop(run):
    shutil.rmtree(run)
    os.symlink(run, run)


def huge(name, head=b""):
    """A sparse file of 1 TB."""

    def spoil(run):
        (run / name).write_bytes(head)
        os.truncate(run / name, 10**12)

    return spoil


def first(weights):
    return next(iter(weights.values()))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


EPOCH = (OLD / "metrics.jsonl").read_bytes().splitlines()[0]
TEXT = (OLD / "config.json").read_bytes()
HOSTILE = {
    "a pickle": (write("weights.safetensors", pickle.dumps(Evil())), "is not a safetensors file"),
    "a header of 2^63 bytes": (
        write("weights.safetensors", struct.pack("<Q", 2**63) + b"{}"),
        "is not a safetensors file",
    ),
    "a tensor of 1 TB": (
        huge(
            "weights.safetensors",
            (lambda h: struct.pack("<Q", len(h)) + h)(
                json.dumps(
                    {"x": {"dtype": "U8", "shape": [10**12], "data_offsets": [0, 10**12]}}
                ).encode()
            ),
        ),
        "safetensors",
    ),
    "NaN weights": (spoil_weights(lambda w: first(w).fill_(torch.nan)), "has NaN or infinite"),
    "infinite weights": (spoil_weights(lambda w: first(w).fill_(torch.inf)), "has NaN or infinite"),
    "a weight of another shape": (
        spoil_weights(lambda w: w.update({next(iter(w)): torch.zeros(3)})),
        "do not fit",
    ),
    "a weight of whole numbers": (
        spoil_weights(lambda w: w.update({next(iter(w)): first(w).long()})),
        "do not fit",
    ),
    "a weight that is not the VAE's": (
        spoil_weights(lambda w: w.update(more=torch.zeros(1))),
        "which the VAE does not have",
    ),
    "a weight that is missing": (spoil_weights(lambda w: w.pop(next(iter(w)))), "do not fit"),
    "no JSON": (write("config.json", b"{"), "it is not JSON"),
    "no UTF-8": (write("config.json", b"\xff{}"), "is not a run's config"),
    "an empty config": (write("config.json", b""), "it is not JSON"),
    "deep JSON": (write("config.json", b"[" * 10**6 + b"\n"), "nested too deeply"),
    "deep objects": (write("config.json", b'{"a":' * 10**5 + b"1" + b"}" * 10**5), "nested"),
    "a name twice": (
        write("config.json", TEXT.replace(b'"vae"', b'"vae": 1, "vae"', 1)),
        "a name is in it twice",
    ),
    "a number of 5,000 digits": (
        write("config.json", TEXT.replace(b'"epochs": 1', b'"epochs": ' + b"9" * 5000)),
        "more than 18 digits",
    ),
    "NaN": (write("config.json", TEXT.replace(b"0.001", b"NaN")), "is not finite"),
    "infinity": (write("config.json", TEXT.replace(b"0.001", b"1e999")), "is not finite"),
    "a config of 1 TB": (huge("config.json"), "bytes and is not read"),
    "a config that is a pipe": (fifo("config.json"), "lacks config.json"),
    "a config that is a folder": (folder_in_place_of("config.json"), "lacks config.json"),
    "weights that are a pipe": (fifo("weights.safetensors"), "lacks weights.safetensors"),
    "metrics that are a pipe": (fifo("metrics.jsonl"), "lacks metrics.jsonl"),
    "metrics of 1 TB": (huge("metrics.jsonl"), "line 1 of"),
    "a line of other types": (
        write("metrics.jsonl", EPOCH.replace(b'"loss": ', b'"loss": "", "x": ') + b"\n"),
        "line 1 of",
    ),
    "a line of other numbers": (
        write("metrics.jsonl", json.dumps({**json.loads(EPOCH), "epoch": "1"}).encode() + b"\n"),
        "line 1 of",
    ),
    "a deep line": (write("metrics.jsonl", b"[" * 10**6 + b"\n"), "line 1 of"),
    "a loop of links": (loop, "there is no run folder"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_sentence(run, case, monkeypatch):
    monkeypatch.chdir(run.parent)
    spoil, said = HOSTILE[case]
    assert load_run(run)
    spoil(run)
    assert said in refused(run)
    assert not Path("executed").exists()


WRONG = [None, True, 3, -1, 0.5, "", "x" * 10**5, [], [1], [[]], {}, {"a": 1}]


def fields():
    """Each field of a config with values of other types."""
    for part in ("vae", "data", "training"):
        for name, value in CONFIG[part].items():
            for other in WRONG:
                if type(other) is not type(value) and (name, other) not in RIGHT:
                    yield part, name, other
    for part in CONFIG:
        for other in WRONG[:-2]:
            if part != "versions":
                yield None, part, other


RIGHT = [("lr", 3), ("hidden", None), ("latent_size", [1])]
"""Other types that a field may have."""


def test_every_field_of_another_type_is_refused(run, capsys):
    for part, name, other in fields():
        config = json.loads(TEXT)
        (config if part is None else config[part])[name] = other
        (run / "config.json").write_text(json.dumps(config))
        assert len(refused(run)) < 500, (part, name, other)


BIG = 10**12
ABSURD = [
    {"latent_size": BIG},
    {"shape": [1, BIG, BIG]},
    {"shape": [1, 10**9, 10**9], "latent_size": [[1, 7, 7], 2]},
    {"hidden": [BIG]},
    {"hidden": [30_000] * 1000},
    {"guide": f"iaf(hidden=({BIG},))"},
    {"guide": f"low-rank(rank={BIG})"},
    {"guide": f"semi-amortized(steps={BIG})"},
    {"guide": f"planar(layers={BIG})"},
    {"prior": f"mixture(components={BIG})"},
    {"prior": f"vamp(components={BIG})"},
    {"network": f"residual(blocks={BIG})"},
    {"network": f"mlp(hidden=[{10**30}])"},
]


@pytest.mark.parametrize("change", ABSURD, ids=lambda change: f"{change}"[:50])
def test_absurd_sizes_are_refused_before_memory_is_taken(run, change):
    for name, value in change.items():
        edit(run, "vae", name, value)
    if "network" in change:
        edit(run, "vae", "hidden", None)
    assert "does not describe a VAE" in refused(run)


def test_the_budget_counts_what_torch_would_allocate():
    with Budget("this", 40_000):
        torch.zeros(1000)
        torch.zeros(1000).expand(10**9, 1000)  # a view takes no memory
    with pytest.raises(InputError, match=r"this needs at least 0\.8 GB"), Budget("this", 1000):
        torch.zeros(200_000_000)
    a = torch.zeros(10**6)
    with pytest.raises(InputError, match=r"at least 4,000\.0 GB"), Budget("this"):
        a[:, None] + a


def test_weights_that_give_no_distribution_are_one_sentence(run, capsys):
    """σ = exp(raw / 2) is 0 for a raw output of -3000."""
    weights = weights_of(run)
    weights["guide.posterior.head.bias"][2:] = -3000
    save_file(weights, run / "weights.safetensors")
    for ask in (["evaluate", run], ["train", "--resume", run, "--epochs", "2", "--no-compile"]):
        assert typed(ask) in (1, 2)
        said = capsys.readouterr().err.strip()
        assert (
            "with these weights, a distribution has invalid parameters (Expected parameter" in said
        )
        assert "\n" not in said


STATES = {
    "NaN": lambda state: state["0.exp_avg"].fill_(torch.nan),
    "another shape": lambda state: state.update({"0.exp_avg": torch.zeros(3)}),
    "another name": lambda state: state.update({"99999.exp_avg": torch.zeros(3)}),
    "a part": lambda state: state.pop("0.step"),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_state_of_the_optimizer_that_does_not_fit_is_refused(run, change, capsys):
    state = load_file(run / "optimizer.safetensors")
    change(state)
    save_file(state, run / "optimizer.safetensors")
    assert typed(["train", "--resume", run, "--epochs", "2", "--no-compile"]) == 2
    assert "optimizer.safetensors" in capsys.readouterr().err


# Other files that a folder could reach


@pytest.mark.parametrize("name", ["../secret", "a/b", "./x.npy", "~/pictures/x"])
def test_the_data_of_a_run_is_a_name_or_a_whole_path(run, name):
    edit(run, "data", "name", name)
    assert "the name of a data set or a whole path" in refused(run)


def test_data_that_is_a_pipe_is_not_opened(run):
    os.mkfifo(run / "data.npy")
    edit(run, "data", "name", str(run / "data.npy"))
    with pytest.raises(InputError, match="not a regular file"):
        images_of(load_run(run)[1], None, "test", None)


def test_a_word_that_is_no_data_set_is_not_looked_for_in_the_current_folder(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    Path("pictures").mkdir()
    edit(run, "data", "name", "pictures")
    with pytest.raises(InputError, match="unknown data set 'pictures'"):
        images_of(load_run(run)[1], None, "test", None)


def test_loading_data_by_name_still_works(run):
    _, config = load_run(run)
    assert len(images_of(config, None, "test", None)) == len(load_data("digits").test)


def test_a_link_in_a_run_is_not_written_through(run, capsys):
    secret = run.parent / "secret"
    secret.write_text("kept")
    for name in ("training.png", "metrics.jsonl", "samples/epoch_0002.png"):
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
        assert typed(["train", "--resume", run, "--epochs", "2", "--no-compile"]) == 2
        assert f"{name}' is a link" in capsys.readouterr().err
        path.unlink()
        shutil.copy(OLD / "metrics.jsonl", run)
    assert secret.read_text() == "kept"


def test_postscript_in_an_image_is_not_run(tmp_path, capsys):
    """Pillow tells the format by the content, and gives EPS to an external program."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    )
    with pytest.raises(InputError, match="unreadable"):
        load_data(tmp_path)


def test_a_matplotlibrc_in_the_current_folder_is_not_read(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    code = (
        "import sys; sys.argv = ['pyro-vae', 'list', 'priors']\n"
        "from pyro_vae.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "import matplotlib; sys.exit(matplotlib.rcParams['text.usetex'])"
    )
    env = {**os.environ, "PYTHONPATH": str(OLD.parents[3])}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env).returncode == 0


def test_grey_images_fit_a_run_of_colour_images(tmp_path):
    save(tmp_path / "a.png", GREYS[0])
    save(tmp_path / "b.png", GREYS[1])
    config = {"data": {"name": "digits", "binarize": "none"}, "vae": {"shape": [3, 6, 5]}}
    images = images_of(config, str(tmp_path), "all", None)
    assert (images.pixels.numpy() == GREYS[:2, None]).all()
    assert images.shape == (3, 6, 5)
