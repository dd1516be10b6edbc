"""The card of a run: a ``README.md`` for people who find the run folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..conditions import CONDITIONED
from ..data.columns import TYPES
from ..data.schema import Schema, listed
from ..errors import InputError
from ..history import Epoch
from ..storage import checkpoint
from ..storage.writing import written
from ..vae import VAE
from ..words import counted, plus_minus, protocol_of, word_of
from .config import read_bytes, read_object
from .splits import no_validation

NAME = "README.md"
MARK = re.compile(r"<!-- pyro-vae card ([0-9a-f]{16}) -->\n")
FRONT = """---
library_name: pyro-vae
{task}tags:
- variational-autoencoder
- pyro
# license: name a license here, such as apache-2.0
---
"""
"""What the Hugging Face hub reads. Only the owner can choose a license."""
TASK = "pipeline_tag: unconditional-image-generation\n"
"""The task of a VAE of images. The hub has no task that fits other observations."""
NAMED = 20
"""How many columns or classes a card names."""


def card_of(
    folder: Path,
    vae: VAE,
    config: Mapping[str, Any],
    history: list[Epoch],
    results: Mapping[str, Any] | None = None,
) -> str:
    """The text of a run's card, in Markdown.

    Args:
        folder: the run folder; its name is the title.
        vae: the VAE of the run.
        config: its config.
        history: the numbers of its epochs.
        results: what ``pyro-vae evaluate --json`` printed, if it was run.
    """
    weights = sum(p.numel() for p in vae.parameters())
    what = word_of(vae.shape)
    parts = {
        key: value for key, value in config["vae"].items() if key not in ("standardize", "scaling")
    }
    parts["shape"] = " x ".join(map(str, vae.shape))
    if tuple(parts.get("conditioned", ())) == CONDITIONED:  # all parts, which is the default
        del parts["conditioned"]
    entries = config.get("data", {}).get("schema")
    schema = None if entries is None else Schema.from_json(entries)
    about = f"A variational autoencoder with {weights:,} weights, made with pyro_vae."
    if what == "image":
        about += " Images are channels x height x width."
    # With patience, the weights are those of the best epoch, and otherwise of the last one. The
    # checkpoint says which epoch it is: on other data, the bounds of before do not count.
    state = checkpoint.read(folder)
    best = None if state is None else state.position.best
    chosen = history[-1:] if best is None else [r for r in history if r.epoch == best.epoch]
    lines = [
        f"# {plain(folder.resolve().name)}",
        "",
        about,
        "",
        "## Parts",
        "",
        *table(stated(parts)),
        "",
        *([] if schema is None else columns(schema)),
        "## Data and training",
        "",
        *protocol(config, len(history)),
        "",
        *numbers(chosen, results, what),
        *(f"![{plain(name)}]({name})\n" for name in pictures(folder)),
        "## Use",
        "",
        *use(vae, schema),
        "## Versions",
        "",
        *table({plain(name): code(value) for name, value in config["versions"].items()}),
    ]
    text = "\n".join(lines) + "\n"
    front = FRONT.format(task=TASK if what == "image" else "")
    return f"{front}<!-- pyro-vae card {digest(front + text)} -->\n{text}"


def stated(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the rows of a table, without those that are not used."""
    used = {k: value for k, value in settings.items() if value is not None and value is not False}
    return {key.replace("_", " "): code(value) for key, value in used.items()}


def columns(schema: Schema) -> list[str]:
    """The lines about the columns of a table."""
    rows = {}
    for kind, meaning in TYPES.items():
        if names := [column.name for column in schema.columns if column.type == kind]:
            rows[f"{len(names):,} {kind}: {meaning}"] = code(listed(names, NAMED))
    if schema.left_out:
        rows[f"{len(schema.left_out):,} left out"] = code(listed([*schema.left_out], NAMED))
    every = "The whole schema, with the values of categories, is in `config.json`."
    return ["## Columns", "", *table(rows), "", every, ""]


def use(vae: VAE, schema: Schema | None) -> list[str]:
    """The lines that say how to load the VAE, encode and sample."""
    condition, n = vae.model.condition, 16
    context = given = rows = ""
    said = []
    if condition is not None and not condition.inferred:
        one = '"CLASS"' if condition.classes else "COVARIATES"
        context, given, rows = f", {one}", f", given={one}", f"None, vae.rows({one}, {n}), "
        names = listed([*map(str, condition.names or range(condition.classes or 0))], NAMED)
        values = f"one of {plain(names)}" if condition.classes else f"{condition.size} real numbers"
        said = [f"`{one}` is {values}.", ""]
    load = ["import pyro_vae", "", 'vae = pyro_vae.load("FOLDER")  # this folder']
    if schema is None:
        what = word_of(vae.shape)
        of = "a PIL image or an array" if what == "image" else "an array or a tensor"
        lines = [
            *load,
            f"vae.encode({what}{context})  # q(z | x) of {of}",
            f"vae.sample({n}{given})  # mean {what}s",
        ]
        return ["```python", *lines, "```", "", *said]
    lines = [
        "import json",
        "import pandas as pd",
        *load,
        'config = json.load(open("FOLDER/config.json"))',
        'schema = pyro_vae.data.Schema.from_json(config["data"]["schema"])',
        "",
        'x, mask = schema.read(pd.read_csv("rows.csv"), "rows.csv")  # with these columns',
        f"vae.encode(x{context}, mask=mask)  # q(z | x) of each row",
        "with vae.in_use():  # rows drawn from p(x), as a data frame",
        f"    rows = schema.frame(vae.model({rows}n={n}))",
    ]
    shell = ["```sh", "pyro-vae sample FOLDER --n 1000 --out samples.csv", "```", ""]
    return [*shell, "```python", *lines, "```", "", *said]


def protocol(config: Mapping[str, Any], epochs: int) -> list[str]:
    """The lines about data and training."""
    if "data" not in config:
        return ["The VAE was saved from Python. The folder does not say what it was trained on."]
    data = {**config["data"], "name": Path(config["data"]["name"]).name}
    data.pop("schema", None)  # it has a table of its own
    rows = stated({f"data: {key}": value for key, value in data.items()})
    rows |= stated(config["training"])
    lines = table({**rows, "epochs": f"{epochs} of {config['training']['epochs']}"})
    sentence = no_validation(config)
    return [*lines, "", sentence] if sentence else lines


def numbers(history: list[Epoch], results: Mapping[str, Any] | None, what: str) -> Iterator[str]:
    """The lines with the numbers of the run, per ``what``; none if there are none."""
    if not history and results is None:
        return
    yield "## Numbers\n"
    if history:
        last = history[-1]
        yield f"In nats per {what}. The ELBO is the reconstruction term minus the KL.\n"
        yield from table(
            {
                f"{plain(last.measured_on)} ELBO": f"{last.elbo:.2f}",
                "reconstruction": f"{last.reconstruction:.2f}",
                "KL": f"{last.kl:.2f}",
            }
        )
        yield f"\nAfter epoch {last.epoch}. No standard errors are recorded while a run trains.\n"
    if results is not None:
        yield f"Measured by `pyro-vae evaluate`, in nats per {what}, ± one standard error:\n"
        yield from table(measured(results))
        split = "" if results["split"] == "all" else f"{results['split']} "
        yield (
            f"\nMeans over {counted(results['images'], f'{plain(split)}{what}')} of "
            f"{code(Path(results['data']).name)}, {plain(protocol_of(results['binarize']))}, seed "
            f"{plain(results['seed'])}."
            + (f" Not comparable: {plain(results['mark'])}." if "mark" in results else "")
            + "\n"
        )


def measured(results: Mapping[str, Any]) -> dict[str, str]:
    """The rows of the numbers with errors."""
    rows = {}
    for way, words in (("monte_carlo", "Monte Carlo KL"), ("analytic", "analytic KL")):
        if values := results[way]:
            for key, name in (("elbo", "ELBO"), ("reconstruction", "reconstruction"), ("kl", "KL")):
                error = values[f"{key}_error"]
                rows[f"{name}, {words}"] = plus_minus(values[key], error)
    log_p = results["log_p"]
    if "mean" in log_p:
        bound = plus_minus(log_p["mean"], log_p["error"])
        rows[f"log p̂(x), a lower bound, {results['samples']} draws"] = bound
    return rows


def pictures(folder: Path) -> list[str]:
    """The names of the pictures that a card shows: curves, and the last of the others."""
    names = [name for name in ("training.png", "kl.png") if (folder / name).is_file()]
    for kind in ("reconstructions", "samples"):
        found = [p for p in folder.glob(f"{kind}/epoch_*.png") if is_picture(f"{kind}/{p.name}")]
        if found:
            last = max(found, key=lambda path: int(path.stem.removeprefix("epoch_")))
            names.append(f"{kind}/{last.name}")
    return names


def is_picture(name: str) -> bool:
    """Whether a run names one of its pictures so."""
    kinds = r"training\.png|kl\.png|(reconstructions|samples)/epoch_[0-9]{4,9}\.png"
    return re.fullmatch(kinds, name) is not None


def read_results(path: Path, folder: Path) -> dict[str, Any]:
    """What ``pyro-vae evaluate --json`` printed for the run in ``folder``.

    Raises:
        InputError: the file is something else, or is of another run.
    """
    try:
        results = read_object(read_bytes(path))
        measured(results)
        texts = [results[key] for key in ("run", "data", "split", "binarize")]
        counts = [results[key] for key in ("images", "seed")]
        if not all(type(n) is int for n in counts) or not all(type(t) is str for t in texts):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{str(path)!r} is not what `pyro-vae evaluate --json` prints") from None
    if Path(results["run"]).resolve().name != folder.resolve().name:
        raise InputError(
            f"{str(path)!r} has the numbers of the run {results['run']!r:.100}, and the card is of "
            f"{str(folder)!r}"
        )
    return results


def write_card(folder: Path, text: str, replace: bool) -> None:
    """Write ``README.md`` into a run folder.

    Raises:
        InputError: a README.md that is not an unchanged card is there, and ``replace`` is False.
    """
    path = folder / NAME
    if path.is_symlink() or path.is_dir():
        raise InputError(f"{str(path)!r} is a link or a folder; move it away")
    if path.is_file() and not replace and not unchanged(path):
        raise InputError(
            f"{str(path)!r} was written or changed by somebody; move it away, or give --replace"
        )
    with written(path) as part:
        part.write_text(text, encoding="utf-8")


def unchanged(path: Path) -> bool:
    """Whether a file is a card as it was written."""
    text = read_bytes(path).decode("utf-8", "replace")
    mark = MARK.search(text)
    return mark is not None and digest(text.replace(mark[0], "", 1)) == mark[1]


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def table(rows: Mapping[str, str]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]


def plain(text: Any) -> str:
    """A text of a stranger without the signs that Markdown and HTML read."""
    return re.sub(r"[^\w .,:=()+-]", " ", str(text))[:200]


def code(value: Any) -> str:
    """A value as code in a cell of a table."""
    return "`" + re.sub(r"[`|\s]", " ", str(value))[:300] + "`"
