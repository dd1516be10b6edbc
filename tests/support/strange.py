"""Strange input: what is drawn, and what must become of it.

Each kind of case has a strategy of hypothesis and a function that tries a case. The function gives
"accepted" or "refused", or it raises: any other exception of the library, a result that is not
finite, a sentence of two lines, or a file that a refused command has left.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import pickle
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_vae import InputError, fit, load_data, load_run
from pyro_vae.cli import main
from pyro_vae.cli.app import app
from pyro_vae.data import BINARIZE
from pyro_vae.errors import TrainingError
from pyro_vae.recipes import RECIPES
from pyro_vae.registry import GUIDES, LIKELIHOODS, NETWORKS, OBJECTIVES, PRIORS, SCALES, arguments
from pyro_vae.runs import images, setup, working
from pyro_vae.runs.folder import read_history

TABLES = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    "network": NETWORKS,
    "objective": OBJECTIVES,
}
HANDED = {
    *("shape", "scaling", "latent_size", "latent_layers"),
    *("encoder", "decoder", "network", "posterior"),
}
SECONDS = 60
"""A case that takes longer counts as a hang."""

# What is drawn

words = st.sampled_from(
    ["", " ", "relu", "softplus", "normal", "z", "σ", "imq", "a,b", "name(", "(1)", "\n", "x" * 300]
)
numbers = st.one_of(
    st.integers(-2, 5),
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, -0.5, 1e-30, 1e30, 1e308]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 10**12, -(10**12), 10**400]),
)
values = st.one_of(
    numbers,
    numbers,
    words,
    st.booleans(),
    st.none(),
    st.lists(numbers, max_size=3),
    st.dictionaries(words, numbers, max_size=2),
)


@st.composite
def specs(draw: Any, table: Any) -> str:
    """The name of a part, with up to two of its options, and sometimes a wrong letter."""
    name = draw(st.sampled_from(sorted(table)))
    options = sorted(arguments(table[name], name).keys() - HANDED - {"data_size"})
    chosen = draw(st.lists(st.sampled_from(options), max_size=2)) if options else []
    given = ", ".join(f"{option}={draw(values)!r}" for option in chosen)
    spec = f"{name}({given})" if given else name
    if draw(st.integers(0, 9)) == 0:
        cut = draw(st.integers(0, len(spec)))
        spec = spec[:cut] + draw(words) + spec[cut + draw(st.integers(0, 2)) :]
    return spec


def settings_of_parts() -> st.SearchStrategy[dict[str, Any]]:
    """Some settings of a training run."""
    sizes = st.one_of(st.integers(-1, 4), st.lists(st.integers(0, 4), max_size=3), values)
    optional: dict[str, Any] = {kind: specs(table) for kind, table in TABLES.items()}
    optional |= {
        "scale": specs(SCALES),
        "hidden": st.lists(st.integers(0, 4), max_size=3),
        "latent": sizes,
        "recipe": st.sampled_from(sorted(RECIPES)),
        "lr": numbers,
        "seed": st.one_of(st.integers(-1, 3), st.just(2**40)),
        "batch_size": st.integers(-1, 9),
        "binarize": st.sampled_from(sorted(BINARIZE)),
        "precision": st.sampled_from(["float32", "bfloat16", "float64", ""]),
    }
    return st.lists(st.sampled_from(sorted(optional)), min_size=1, max_size=3, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: optional[key] for key in keys})
    )


@st.composite
def configs(draw: Any) -> tuple[str, Any]:
    """A change of a run folder: a field of its config, or some bytes of one of its files."""
    if draw(st.booleans()):
        part = draw(st.sampled_from(["vae", "data", "training", "versions", None]))
        config = json.loads((made_run() / "config.json").read_text())
        names = sorted(config if part is None else config[part])
        name = draw(st.one_of(st.sampled_from(names), words))
        kind = TABLES.get(name)
        value = draw(values if kind is None else st.one_of(values, specs(kind)))
        if name in (config if part is None else config[part]) and draw(st.integers(0, 4)) == 0:
            return "missing", (part, name)
        return "field", (part, name, value)
    name = draw(st.sampled_from(sorted(p.name for p in made_run().iterdir() if p.is_file())))
    place, length = draw(st.tuples(st.floats(0, 1), st.integers(0, 40)))
    return "bytes", (name, place, length, draw(st.binary(max_size=12)))


TYPES = [
    "u1",
    "?",
    "f4",
    "f8",
    "f2",
    "i8",
    "i1",
    "u8",
    "c16",
    "O",
    "U3",
    "S2",
    "M8[s]",
    "V4",
    ">f4",
]


@st.composite
def arrays(draw: Any) -> dict[str, Any]:
    """Arrays of images and labels in a file, with up to three things that are strange."""
    usual = {
        "shape": [[8, 4, 4], [8, 1, 4, 4], [8, 4, 4, 3]],
        "type": ["u1", "?", "f4", "f8"],
        "fill": ["unit", "zero"],
        "ending": [".npy", ".npz"],
        "labels": [None, "i8", "u1", "U3", "f4"],
        "label": [1],
        "more": [[]],
        "cut": [0],
    }
    strange = {
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 5, 8]), max_size=5),
        "type": st.sampled_from(TYPES),
        "fill": st.sampled_from(["levels", "nan", "inf", "negative"]),
        "ending": st.sampled_from([".NPY", ".txt", ".pkl", ""]),
        "labels": st.sampled_from(TYPES),
        "label": st.sampled_from([np.nan, np.inf, 0.5, -1]),
        "more": st.sampled_from([["test_images"], ["x", "y"]]),
        "cut": st.sampled_from([1, 50]),
    }
    case = {name: draw(st.sampled_from(each)) for name, each in usual.items()}
    for name in draw(st.lists(st.sampled_from(sorted(strange)), max_size=3, unique=True)):
        case[name] = draw(strange[name])
    return case


@cache
def options_of_commands() -> dict[str, list[Any]]:
    """The options of each command, as the command line knows them."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {name: [p for p in c.params if p.opts[0] != "--help"] for name, c in commands.items()}


PATHS = ["", " ", ".", "/", "/dev/null/x", "run", "run/config.json", "new", "new/deep", "a.png"]
PATHS += ["a.npz", "a.csv", "\udcff", "x" * 300, "images.npy", "\n", "/proc/x", "a.gif"]
LISTS = [
    "",
    ",",
    "mean-field,,iaf",
    "mean-field,mean-field",
    "mean-field",
    "vae",
    "1,2",
    "descent,",
]


@st.composite
def texts(draw: Any, option: Any) -> str:
    """A value of an option as a user might type it."""
    name = option.opts[0].removeprefix("--")
    kind = name.removesuffix("s")
    if kind in TABLES and draw(st.booleans()):
        return draw(specs(TABLES[kind]))
    if name in ("out", "figures", "data-dir", "data", "resume", "run") and draw(st.booleans()):
        return draw(st.sampled_from(PATHS))
    if name == "split" and draw(st.booleans()):
        return draw(st.sampled_from(["train", "test", "validation", "all"]))
    plain = st.one_of(
        words, st.sampled_from(LISTS), numbers.map(str), st.sampled_from(["cpu", "all"])
    )
    return draw(plain)


@st.composite
def command_lines(draw: Any) -> list[str]:
    """A command with up to three options. It is small if all of them are taken."""
    name = draw(st.sampled_from(sorted(options_of_commands())))
    words = [name, *START.get(name, ["run"])]
    options = [o for o in options_of_commands()[name] if o.opts[0].startswith("--")]
    free = [o for o in options if o.opts[0] not in COSTLY]
    for option in draw(st.lists(st.sampled_from(free), max_size=3)) if free else []:
        words.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        if not option.is_flag:
            words[-1] += "=" + draw(texts(option))
    if name == "list":
        words += draw(
            st.lists(st.one_of(st.sampled_from(["priors", "data"]), plain_words), max_size=1)
        )
    if draw(st.integers(0, 19)) == 0:
        words.append(draw(plain_words))
    return words


plain_words = words.filter(lambda w: not w.startswith("-"))
START = {
    "train": ["--data", "images.npy", "--epochs", "1", "--no-compile"],
    "compare": ["--data", "images.npy", "--epochs", "1", "--no-compile", "--samples", "2"],
    "evaluate": ["run", "--samples", "5", "--gap-images", "2"],
    "score": ["run", "--samples", "5"],
    "scales": ["--only", "no such experiment"],
    "list": [],
}
COSTLY = {"--epochs", "--samples", "--gap-images", "--seeds", "--annealed", "--compile"}
COSTLY |= {"--install-completion", "--show-completion", "--quick", "--only", "--gaps"}


# What must become of it


@cache
def images_file() -> Path:
    """Eight grey images of 4 x 4 pixels."""
    path = Path(tempfile.mkdtemp()) / "images.npy"
    np.save(path, np.random.RandomState(0).randint(256, size=(8, 4, 4), dtype=np.uint8))
    return path


@cache
def made_run() -> Path:
    """A run on these images, trained for an epoch."""
    run = images_file().parent / "run"
    start = ["--data", str(images_file()), "--epochs", "1", "--no-compile", "--latent", "2"]
    code, said, _ = typed_here(["train", *start, "--hidden", "4", "--out", str(run)])
    assert code == 0, said
    return run


def sentence(error: Exception) -> str:
    """The message of an error of the library. It must be one sentence."""
    text = str(error)
    assert text.strip(), "an empty message"
    assert "\n" not in text, f"not one line: {text!r:.300}"
    assert len(text) < 1500, f"{len(text)} characters: {text:.200}"
    for word in ("Traceback", "DefaultCPUAllocator", "object at 0x"):
        assert word not in text, text
    return text


def try_parts(given: dict[str, Any]) -> str:
    """Prepare a run with these settings and train it for an epoch."""
    try:
        run = setup.prepare(
            {"data": str(images_file()), "epochs": 1, **given}, torch.device("cpu"), None
        )
        history = fit(run.vae, run.data, **run.training, compiled=False, optimizer=run.optimizer)
        drawn = run.vae.sample(2)
    except (InputError, TrainingError) as error:
        sentence(error)
        return "refused"
    assert np.isfinite([history[0].loss, history[0].elbo]).all(), history
    assert drawn.isfinite().all()
    return "accepted"


def try_config(case: tuple[str, Any]) -> str:
    """Change a run folder, then open it, draw an image and train it further."""
    with tempfile.TemporaryDirectory() as folder:
        run = shutil.copytree(made_run(), Path(folder) / "run")
        if case[0] in ("field", "missing"):
            part, name, *value = case[1]
            config = json.loads((run / "config.json").read_text())
            place = config if part is None else config[part]
            if value:
                place[name] = value[0]
            else:
                del place[name]
            (run / "config.json").write_text(json.dumps(config))
        else:
            name, share, length, new = case[1]
            old = (run / name).read_bytes()
            at = int(share * len(old))
            (run / name).write_bytes(old[:at] + new + old[at + length :])
        try:
            vae, config = load_run(run)
            read_history(run)
            images.images_of(config, None, "test", None)
            drawn = vae.sample(1)
            if case[1][0] == "weights.safetensors":
                scores = ["--samples", "5", "--out", f"{folder}/a.csv"]
                code, said, _ = typed_here(["score", str(run), *scores])
                assert code == 0 or said.startswith("Error: "), said
            more = working.resume(run, 2, torch.device("cpu"), None)
            fit(
                more.vae,
                more.data,
                **more.training,
                compiled=False,
                optimizer=more.optimizer,
                start=more.start,
            )
        except (InputError, TrainingError) as error:
            sentence(error)
            return "refused"
        assert drawn.isfinite().all()
        return "accepted"


def filled(shape: list[int], kind: str, fill: str) -> Any:
    """An array of some shape, type and content."""
    random = np.random.RandomState(0)
    numbers = {
        "unit": lambda: random.rand(*shape),
        "levels": lambda: random.randint(0, 256, size=shape),
        "nan": lambda: np.full(shape, np.nan),
        "inf": lambda: np.full(shape, np.inf),
        "negative": lambda: -random.rand(*shape),
        "zero": lambda: np.zeros(shape),
    }[fill]()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind.startswith("V"):
            return np.zeros(shape, kind)
        return (
            np.nan_to_num(numbers).astype(kind)
            if kind[0] in "uiMS?"
            else np.asarray(numbers).astype(kind)
        )


def try_array(case: dict[str, Any]) -> str:
    """Write the arrays to a file and load it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"images{case['ending']}"
        images = filled(case["shape"], case["type"], case["fill"])
        if path.suffix == ".npz":
            found = {"images": images}
            if case["labels"] is not None:
                count = case["shape"][0] if case["shape"] else 0
                number = (
                    case["label"]
                    if case["labels"][0] in "fcO"
                    else np.nan_to_num(case["label"], posinf=9)
                )
                found["labels"] = np.full(count, number).astype(case["labels"].replace("V4", "u1"))
            found |= dict.fromkeys(case["more"], images)
            np.savez(path, **found)
        elif path.suffix == ".pkl":
            path.write_bytes(pickle.dumps(images))
        else:
            with path.open("wb") as file:
                np.save(file, images, allow_pickle=True)
        if case["cut"]:
            path.write_bytes(path.read_bytes()[: -case["cut"]])
        try:
            data = load_data(path, binarize="none")
        except InputError as error:
            sentence(error)
            return "refused"
        for part in (data.train, data.test):
            x = part.batch(slice(None))
            assert x.isfinite().all()
            assert not part.in_unit_interval or 0 <= x.min() <= x.max() <= 1
        return "accepted"


def files_in(folder: Path) -> dict[str, Any]:
    """All files below a folder with their contents."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def typed_here(arguments: list[str]) -> tuple[Any, str, str]:
    """Run a command line in this process: exit code, stderr and stdout."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["pyro-vae", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        return end.code, err.getvalue(), out.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("main returned")


def try_command(arguments: list[str]) -> str:
    """Run a command in a folder with a run and with images."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(made_run(), "run")
        shutil.copy(images_file(), "images.npy")
        before = files_in(Path(folder))
        code, said, _ = typed_here(arguments)
        assert code in (0, 1, 2), code
        if code == 0:
            return "accepted"
        assert "Traceback" not in said
        hint = "What went wrong in this step is shown by: pyro-vae train --replay "
        if code == 1 and said.startswith(hint):  # of a training that failed, before its error
            said = said.partition("\n")[2]
            assert said.startswith("Error: "), said
        if said.startswith("Error: "):
            sentence(Exception(said.removeprefix("Error: ").strip()))
        else:
            assert code == 2, code
            assert "Usage: " in said, said
        after = files_in(Path(folder))
        made = [Path(name).parent for name in after.keys() - before.keys() if "config.json" in name]
        if code == 1 and made:  # training failed, and the run stays as it was before that epoch
            load_run(made[0])
            return "refused"
        assert after == before, f"left behind: {sorted(set(after) ^ set(before)) or 'a change'}"
        return "refused"


@dataclass(frozen=True)
class Kind:
    """A kind of case: how it is drawn, how it is tried, and its shares of all cases and time."""

    drawn: Callable[[], st.SearchStrategy[Any]]
    tried: Callable[[Any], str]
    share: float
    time: float


KINDS = {
    "parts": Kind(settings_of_parts, try_parts, 0.3, 0.4),
    "configs": Kind(configs, try_config, 0.3, 0.15),
    "arrays": Kind(arrays, try_array, 0.2, 0.05),
    "command lines": Kind(command_lines, try_command, 0.2, 0.4),
}


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Raise an error in a case that takes too long."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(kind: Kind, cases: int, seconds: float = 1e9, fixed: bool = True) -> dict[str, Any]:
    """Draw cases and try each: how many were accepted and refused, and what else was found.

    Args:
        kind: the kind of case.
        cases: how many are drawn.
        seconds: no case begins after this time.
        fixed: whether each call draws the same cases.
    """
    counts: Counter[str] = Counter()
    found: dict[str, str] = {}
    began = time.monotonic()

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=fixed,
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.drawn())
    def each(case: Any) -> None:
        if time.monotonic() - began > seconds:
            return
        torch.manual_seed(0)
        try:
            with no_hang(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                counts[kind.tried(case)] += 1
        except Exception as error:
            counts["other"] += 1
            where = inspect.trace()[-1]
            key = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
            found.setdefault(key, f"{error!s:.400} <- {case!r:.400}")

    each()
    return {**counts, "found": found}
