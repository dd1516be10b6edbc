"""The images that a command on a run works on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from ..contracts import Likelihood
from ..data import DATASETS, Data, Images, StoredData, StoredImages, in_memory, load_data, open_data
from ..data.splitting import TooFewRows
from ..data.tables import is_table
from ..errors import InputError
from ..registry import lookup
from ..settings import CONTEXT, OF_TABLES, READING
from ..vae import VAE
from .splits import checksums, own_folder, own_splits, resplit


def unnamed_data(vae: VAE) -> dict[str, Any]:
    """The entry ``data`` for a VAE that was saved from Python, whose folder names no data.

    The binarisation is the one that the likelihood needs.
    """
    binary = Likelihood.of(vae.model.likelihood).binary
    data: dict[str, Any] = {"name": None, "binarize": "dynamic" if binary else "none"}
    if vae.model.condition is not None and not vae.infers_y:
        targets = vae.schema is not None and vae.schema.target is not None
        data["condition"] = "target" if targets else "label"
    if vae.schema is not None:
        data["schema"] = vae.schema.to_json()
    return data


def name_of(data: str) -> str:
    """A data set's name, or the absolute path of the user's own images."""
    return data if data in DATASETS else str(Path(os.path.expanduser(data)).resolve())


def opened(
    source: Mapping[str, Any], data_dir: Path | None, test_fraction: float = 0.2, workers: int = 0
) -> Data | StoredData:
    """The data of a run: in memory, or on disk if the run leaves it there (``stream``).

    Args:
        source: the arguments of :func:`~pyro_vae.data.load_data`, and ``stream``. Without
            ``validation``, as in older runs, only a folder's own validation images are some.
        data_dir: folder of downloaded data sets.
        test_fraction: as for ``load_data``.
        workers: how many processes read images that stay on disk.
    """
    apart = ("name", "stream", "labels_seed", *CONTEXT)
    options = {key: value for key, value in source.items() if key not in apart}
    options["test_fraction"] = test_fraction
    split = own_splits(source["name"])
    if "validation" not in options:
        options["validation"] = None if "validation" in split else 0
    if test_fraction == 0 and not split and source["name"] not in DATASETS:
        options["validation"] = 0  # all images in one piece
    if not source.get("stream"):
        return with_context(load_data(source["name"], data_dir=data_dir, **options), source)
    if is_table(source["name"]):
        raise InputError(f"the table {source['name']!r} is read into memory; leave --stream out")
    if named := [key for key in OF_TABLES if source.get(key) is not None]:
        raise InputError(f"--{named[0]} is for tables, and {source['name']!r} is not one")
    if named := [key for key in CONTEXT if source.get(key) is not None]:
        flag = {"labels": "--known-labels"}.get(named[0], f"--{named[0]}")
        raise InputError(f"{flag} is for images in memory; leave --stream out")
    return open_data(source["name"], workers=workers, **options)


def reopened(
    source: Mapping[str, Any], data_dir: Path | None, test_fraction: float = 0.2, workers: int = 0
) -> Data | StoredData:
    """As :func:`opened`, for a run that was trained on this data with its validation split.

    Raises:
        InputError: the data has fewer rows now than the split needs.
    """
    try:
        return opened(source, data_dir, test_fraction, workers)
    except TooFewRows as error:
        raise InputError(
            f"the data {source['name']!r} has changed since the run was trained, and its "
            f"validation split of {source['validation']} rows no longer fits; give the data of then"
        ) from error


def with_context(data: Data, source: Mapping[str, Any]) -> Data:
    """Data with the context that a run's model and guide are given.

    Args:
        data: the data.
        source: the entry ``data`` of the run's config. ``condition`` is "label" or "target";
            ``labels`` says how many training images keep theirs, and ``labels_seed`` is the seed
            of the draw.

    Raises:
        InputError: data without labels, or a number of labels that is not possible.
    """
    labels = source.get("labels")
    if labels is not None:
        return data.labelled(None if labels == "all" else labels, source.get("labels_seed", 0))
    return data if source.get("condition") is None else data.conditioned(source["condition"])


def check_source(name: str) -> None:
    """Refuse a word in a config that is not a data set. A run stores other data by a whole path."""
    if not os.path.isabs(name):
        lookup("data set", name, DATASETS)


def same_data(data: Data | StoredData, checksum: str, source: Mapping[str, Any]) -> bool:
    """Whether data has a checksum. "" stands for one that is not known.

    Args:
        data: as :func:`images_of` loads it; without a split if all images are wanted.
        checksum: that of the data with its split and its context.
        source: as for :func:`with_context`.
    """
    if len(data.test) == 0 and len(data.train) > 1:
        if data.train.binarize == "static":  # its draws depend on the split
            return True
        data = type(data)(data.name, *resplit(data.train, source.get("validation", 0)))
    if isinstance(data, Data):
        data = with_context(data, source)
    return checksum in checksums(data)


def in_colour(data: Data) -> Data:
    """Grey images for a run of colour images: the three channels are equal."""

    def repeated(images: Images) -> Images:
        return replace(images, pixels=images.pixels.repeat(1, 3, 1, 1))

    validation = None if data.validation is None else repeated(data.validation)
    return replace(
        data, train=repeated(data.train), test=repeated(data.test), validation=validation
    )


def images_of(
    config: dict[str, Any],
    name: str | None,
    split: str,
    data_dir: Path | None,
    say: Callable[[str], None] = warnings.warn,
) -> Images:
    """The images that a command on a run works on, with the run's own binarisation.

    Args:
        config: the run's config. It may have the ``checksum`` of the data. The name of the data is
            None for a VAE that was saved from Python.
        name: another data set than the run's own; None for its own.
        split: ``train``, ``validation``, ``test`` or ``all``.
        data_dir: folder of downloaded data sets.
        say: is called with a sentence if the run's own data has changed.

    Raises:
        InputError: images of another shape than the run's, or an empty split.
    """
    source = source_of(config, name, say)
    whole = split == "all" and source["name"] not in DATASETS
    data = data_of(config, name, source, whole, data_dir, say)
    splits = {"train": data.train, "test": data.test, "validation": data.validation}
    chosen = joined(data) if split == "all" else splits[split]
    if chosen is None:
        raise InputError(
            f"there are no validation images in {source['name']!r}: the run was trained without, "
            "or they are not its own data and no folder with a sub-folder 'val'"
        )
    if len(chosen) == 0:
        raise InputError(f"there are no {split} images in {source['name']!r}")
    return in_memory(chosen)


def joined(data: Data | StoredData) -> Images | StoredImages:
    """The training, the validation and the test images."""
    parts: list[Any] = [data.train, data.validation, data.test]
    return reduce(lambda some, part: some.joined(part), [part for part in parts if part])


def scored_images(
    config: dict[str, Any],
    name: str | None,
    split: str | None,
    data_dir: Path | None,
    say: Callable[[str], None] = warnings.warn,
) -> tuple[Images, list[str]]:
    """As :func:`images_of`, with the split of each image; "" if nobody has split them.

    Args:
        config, name, data_dir, say: as for :func:`images_of`.
        split: None takes all images but those of ``train``.
    """
    if split not in (None, "all"):
        images = images_of(config, name, split, data_dir, say)
        return images, [split] * len(images)
    source = source_of(config, name, say)
    own = source["name"] == config["data"]["name"]
    data = data_of(config, name, source, not own, data_dir, say)
    own_array = source["name"] not in DATASETS and not own_folder(source["name"])
    own_array = own_array and not own_splits(source["name"])
    own_array = own_array and not is_table(source["name"])  # its rows have names already
    if isinstance(data, Data) and own_array:  # images on disk have the numbers already
        data = with_rows(data, source["name"])
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    if len(data.test) == 0:
        parts = {"": data.train}
    chosen = {
        key: in_memory(images)
        for key, images in parts.items()
        if images and (split == "all" or key != "train")
    }
    names = [key for key, images in chosen.items() for _ in range(len(images))]
    return reduce(Images.joined, chosen.values()), names


def with_rows(data: Data, path: str) -> Data:
    """The data of an array file, with the numbers of the array's rows as file names."""
    whole = load_data(path, test_fraction=0.0).train
    named = replace(whole, files=tuple(map(str, range(len(whole)))))
    if len(data.test) == 0:
        return replace(data, train=replace(data.train, files=named.files))
    parts = resplit(named, len(data.validation or ()))
    train, test, held_out = (part and part.files for part in parts)
    return replace(
        data,
        train=replace(data.train, files=train),
        test=replace(data.test, files=test),
        validation=data.validation and replace(data.validation, files=held_out),
    )


def source_of(
    config: dict[str, Any], name: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The arguments of :func:`opened` for the run's own or other images."""
    source = dict(config["data"])
    if source["name"] is None:
        if name is None:
            raise InputError(
                "the VAE was saved from Python, and its folder names no data; give --data"
            )
        if is_table(name) and "schema" not in source:
            raise InputError(
                "the VAE was saved from Python, and its folder has no schema for the table "
                f"{name!r}; before vae.save(), set vae.schema = data.train.schema"
            )
        if source["binarize"] != "none":
            say(
                "The folder does not say how the training images were binarised. Those of --data "
                f"are binarised by {source['binarize']}, because the likelihood scores 0 and 1."
            )
    if name is None:
        check_source(source["name"])
    elif name_of(name) != source["name"]:
        source["name"] = name_of(name)
        source.pop("stream", None)  # other images are read into memory
        source.pop("validation", None)  # and nobody has cut validation images from them
        # load_data() resizes only the images of a folder, and only a table has a schema.
        kept: tuple[str, ...] = OF_TABLES if is_table(name) else ()
        kept = ("size", "crop", "grey") if own_folder(name) else kept
        source = {k: v for k, v in source.items() if k not in READING or k in kept}
    return source


def data_of(
    config: dict[str, Any],
    name: str | None,
    source: dict[str, Any],
    whole: bool,
    data_dir: Path | None,
    say: Callable[[str], None],
) -> Data | StoredData:
    """The data of :func:`source_of`, which must have the shape of the run's images.

    ``whole`` leaves images that nobody has split in one piece, as ``train``.
    """
    apart = {key: value for key, value in source.items() if key not in CONTEXT}
    data = reopened(apart, data_dir, 0.0 if whole else 0.2)
    grey = len(data.shape) == 3 and data.shape[0] == 1
    if isinstance(data, Data) and grey and config["vae"]["shape"][0] == 3:
        data = in_colour(data)
    if list(data.shape) != config["vae"]["shape"]:
        raise InputError(
            f"the run was trained on data of shape {config['vae']['shape']}, and those of "
            f"{source['name']!r} have {list(data.shape)}"
        )
    if source.get("condition") is not None and isinstance(data, Data):
        data = by_classes_of(config, data)
    if name is None and not same_data(data, config.get("checksum", ""), source):
        say(
            f"The images of {source['name']!r}, their labels or their split are not those that the "
            "run was trained on, so it may have been trained on some of the test images."
        )
    return data


def by_classes_of(config: dict[str, Any], data: Data) -> Data:
    """Data whose labels are the context, counted by the classes of a run, or whose targets are.

    Raises:
        InputError: a run that is conditioned on covariates, data without labels, or a label of a
            class that the run does not know.
    """
    if config["data"]["condition"] == "target":
        return data.conditioned("target")
    condition = config["vae"]["condition"]
    names = condition if isinstance(condition, list) else None
    if names is not None and not all(isinstance(name, str) for name in names):
        raise InputError(
            "the VAE is conditioned on covariates, which the commands do not have; use it from "
            "Python, where they are the argument context"
        )
    return data.conditioned("label", names)
