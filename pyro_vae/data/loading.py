"""Load data by name or path: find them, split them and binarise them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import InputError
from ..registry import lookup
from ..spelling import spelled, spelled_class
from ..words import called
from .arrays import read_array
from .datasets import DATASETS, data_folder
from .finding import check_size, find_path
from .folders import find_files
from .imagefiles import read_files
from .images import BINARIZE, Images
from .labelled import partly_known
from .published import published_parts, read_published
from .schemafile import GivenSchema, read_schema
from .splitting import VALIDATION, cut_validation
from .tables import check_frame, is_table, read_table, split_table, table_images

if TYPE_CHECKING:
    import pandas as pd


@spelled_class
@dataclass(frozen=True)
class Data:
    """A data set and its split.

    Args:
        name: the name of the data set, or the path of the user's images.
        train: the images that a model is trained on.
        test: the images that a finished model is scored on. Training does not use them.
        validation: the images that show how well training goes, and by which settings are chosen;
            None for none.
    """

    name: str
    train: Images
    test: Images
    validation: Images | None = None

    @classmethod
    def of_table(
        cls,
        frame: pd.DataFrame,
        schema: GivenSchema = None,
        *,
        label: str | None = None,
        target: str | None = None,
        name: str = "the table",
        test_fraction: float = 0.2,
        split_seed: int = 0,
        validation: float | None = None,
    ) -> Data:
        """A data frame of pandas as data: the rows are observations, split into three parts.

        Args:
            frame: the table. Its index names the rows.
            schema, label, target, test_fraction, split_seed, validation: as for :func:`load_data`.
            name: what error messages call the table.

        Raises:
            InputError: something else than a data frame, or as for :func:`load_data`.

        Example:
            >>> import pandas as pd
            >>> table = pd.DataFrame({"age": [31.5, 40.2, 55.1, 62.0], "sex": ["f", "m", "m", "f"]})
            >>> print(Data.of_table(table, {"sex": "categorical"}).train.schema)
            1 real (age), 1 categorical (sex)
        """
        known = read_schema(schema)
        check_frame(frame)
        images = table_images(frame, known, name, label, target)
        train, test = split_table(images, known, name, test_fraction, split_seed)
        usual = VALIDATION if test_fraction else 0
        train, held_out = cut_validation(train, validation, split_seed, usual)
        return cls(name, train, test, held_out)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one observation, ``(C, H, W)`` of an image."""
        return self.train.shape

    def checksum(self) -> str:
        """A text of 32 letters that is another one if a pixel, the mask, a label, the context, the
        order of the images or their split is another one. It takes about a second for each GB of
        pixels."""
        digest = hashlib.blake2b(digest_size=16)
        for images in (self.train, self.test, self.validation):
            for tensor in () if images is None else images.tensors().values():
                array = tensor.cpu().contiguous().numpy()
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(array.data)
        return digest.hexdigest()

    def to(self, device: str | torch.device) -> Data:
        """The same data on another device."""
        return self._each(lambda images: images.to(device))

    @spelled
    def conditioned(self, on: str = "label", classes: Sequence[str] | None = None) -> Data:
        """The same data with labels or real targets as the context of model and guide.

        For covariates, condition each part: ``Data(name, train.conditioned(a),
        test.conditioned(b))``. ``classes`` is as in :meth:`.images.Images.conditioned`.

        Raises:
            InputError: a part without labels, or a label that is not in ``classes``.

        Example:
            >>> data = load_data("digits").conditioned("label")
            >>> torch.equal(data.train.context, data.train.labels)
            True
        """
        if on not in ("label", "target"):
            raise InputError(
                f"data is conditioned on 'label' or 'target', not {on!r:.100}; covariates are "
                "conditions of its parts, train.conditioned(tensor) and test.conditioned(tensor)"
            )
        names = classes or self.train.classes or None
        return self._each(lambda images: images.conditioned(on, names))

    @spelled
    def labelled(self, count: int | None = None, seed: int = 0) -> Data:
        """The same data with labels for semi-supervised learning, in the context.

        The context of a training image is its label, or -1 if it is hidden or missing; of data with
        real targets its targets, or NaN. Test and validation images have no context, so that the
        label is inferred.

        Args:
            count: how many training images keep their label, as many of each class, or their
                targets; None for all.
            seed: of the draw of those that do.

        Raises:
            InputError: training images without labels, or a count that is not possible.

        Example:
            >>> (load_data("digits").labelled(100).train.context >= 0).sum()
            tensor(100)
        """
        context = partly_known(self.train, count, seed)
        return replace(self, train=replace(self.train, context=context))

    def _each(self, change: Callable[[Images], Images]) -> Data:
        train, test = change(self.train), change(self.test)
        validation = None if self.validation is None else change(self.validation)
        return replace(self, train=train, test=test, validation=validation)

    @spelled
    def binarized(self, protocol: str, seed: int = 0) -> Data:
        """The same data, binarised by ``protocol``; ``seed`` is that of a ``static`` draw."""
        lookup("binarisation", protocol, BINARIZE)
        # The order matters: the static draws of train, test and validation are one stream.
        random = np.random.RandomState(seed)
        return self._each(lambda images: images.binarized(protocol, random))


@spelled
def load_data(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    binarize: str = "none",
    binarize_seed: int = 0,
    split_seed: int = 0,
    test_fraction: float = 0.2,
    validation: float | None = None,
    size: int | Sequence[int] | None = None,
    crop: bool = False,
    grey: bool = False,
    schema: GivenSchema = None,
    label: str | None = None,
    target: str | None = None,
) -> Data:
    """Load a data set of :data:`DATASETS` or the user's own data, split and binarised.

    The user's own data are a folder of image files, a ``.npy`` file, a ``.npz`` file, a table, or
    files of :mod:`~pyro_vae.data.published`:

    - A folder holds image files, or one sub-folder of image files for each class. Grey images get
      three channels if other images of the folder have colour. If all are grey, colour files
      (R = G = B) are read as one channel, and a warning tells it.
    - A folder that holds the folders ``train`` and ``test``, and perhaps ``val``, is split already;
      ``val`` then has the validation images.
      Each of them is a folder as above. Their names may be written in any case; ``training``,
      ``testing``, ``valid`` and ``validation`` mean the same. The images have labels only if all of
      them, in every part, are in sub-folders.
    - Pixels of 8 bits are k / 255. If all images of a folder or of an array have only the values 0
      and 1, they are masks: 1 is white, and a warning tells it.
    - A ``.npz`` file holds the array ``images`` and, if the classes are known, ``labels``.
    - An array of 8 bits, of truth values or of floats in [0, 1], with the layout ``[N, H, W]``,
      ``[N, C, H, W]`` or ``[N, H, W, C]``, is one of images. Any other array ``[N, *shape]`` holds
      observations of this shape: vectors ``[N, D]``, signals ``[N, C, L]``, volumes
      ``[N, C, D, H, W]``, of real numbers, counts or the numbers of categories.
    - A table is a file that ends in ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad`` (AnnData, the
      matrix X). The types of its columns are inferred by the rules of
      :mod:`~pyro_vae.data.inferring`, and columns that are no numbers or categories are left out;
      ``train.schema`` tells both. A row is a vector with a number for each column. Missing cells
      become the mask. :meth:`Data.of_table` takes a data frame of pandas.

    Results under different binarisations are not comparable, so a result must name its own:

    - ``none``: the grey pixels, pixel / 255.
    - ``dynamic``: x ~ Bernoulli(pixel / 255), drawn again each time an image enters a batch.
    - ``static``: the same draw, made once with a seed. It is a draw of our own and not that of
      Larochelle & Murray (2011), beside whose results it is never put: give their files instead.
    - ``threshold``: 1 where pixel / 255 >= 0.5, else 0.

    Args:
        name: a name in :data:`DATASETS`, or the path of the user's own images.
        data_dir: folder of the downloaded data sets; by default the folder in the environment
            variable ``PYRO_VAE_DATA_DIR``, else a cache folder of the user.
        binarize: ``none``, ``dynamic``, ``static`` or ``threshold``.
        binarize_seed: seed of the ``static`` draw.
        split_seed: seed of the split of the user's own images, and of the cut of the validation
            images. A named data set keeps its usual test images.
        test_fraction: share of the user's own images that becomes the test set, in [0, 1). With 0
            the test set is empty and the images keep their order. A folder that is split
            already ignores it.
        validation: how many of the training images become the validation images, or which share
            of them; each class gives its share. 0 for none. None takes 10,000 of ``mnist`` and the
            sets of its size, of other data a tenth, and none of own images without a test set. A
            folder with a ``val`` of its own takes None, the number of these images, or 0.
        size: height and width in pixels, ``(H, W)`` or one number for both, that image files are
            resized to (bilinear, with antialiasing). None keeps their size, which must then be the
            same for all of them.
        crop: whether an image of another aspect ratio than ``size`` loses its edges: it is resized
            until it covers ``size``, and its centre is kept. Without it, this image is an error.
        grey: whether colour image files become grey, by their luma (ITU-R BT.601).
        schema: of a table, the types of its columns where they are not inferred, such as
            ``{"age": "real", "id": "left out"}``, or a JSON file with them, or the whole schema of
            another table, ``data.train.schema``; see :func:`~pyro_vae.data.schemafile.read_schema`.
        label: of a table, the column that holds the classes of the rows. It becomes their labels;
            one that is missing is -1.
        target: of a table, the column that holds a real target; one that is missing is NaN.

    Raises:
        InputError: the name is unknown; the images are unreadable or do not fit together; the
            data set is not on disk and cannot be downloaded.

    Paper:
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519 (``dynamic``).

    Example:
        >>> data = load_data("digits", binarize="threshold")
        >>> data.train.batch([0, 1]).shape
        torch.Size([2, 1, 8, 8])
    """
    lookup("binarisation", binarize, BINARIZE)
    pair = check_size(size, crop)
    path = None if str(name) in DATASETS else find_path(name)
    if (pair or grey) and (path is None or not path.is_dir() or published_parts(path)):
        raise InputError(
            f"{called('size')}, {called('crop')} and {called('grey')} change the image files of a "
            f"folder, and {str(name)!r} has none or is not a folder"
        )
    of_table = {"schema": schema, "label": label, "target": target}
    given = [option for option, value in of_table.items() if value is not None]
    if given and (path is None or not is_table(path)):
        what = "a folder" if path is not None and path.is_dir() else "not one"
        raise InputError(
            f"{called(given[0])} is for tables, files that end in .csv, .tsv, .parquet or .h5ad, "
            f"and {str(name)!r} is {what}"
        )
    held_out: Images | None = None
    if path is None:
        train, test = DATASETS[str(name)].load(str(name), data_folder(data_dir))
    elif published_parts(path):
        train, test, held_out = read_published(path)
    elif path.is_dir():
        train, test, held_out = read_folder(path, test_fraction, split_seed, pair, crop, grey)
    elif is_table(path):
        known = read_schema(schema)
        images = read_table(path, known, label, target)
        train, test = split_table(images, known, repr(path.name), test_fraction, split_seed)
    else:
        train, test = read_array(path).split(test_fraction, split_seed)
    usual = VALIDATION if path is not None else DATASETS[str(name)].validation
    usual = usual if len(test) else 0
    train, held_out = cut_validation(train, validation, split_seed, usual, held_out)
    return Data(str(name), train, test, held_out).binarized(binarize, binarize_seed)


def read_folder(
    folder: Path,
    test_fraction: float,
    seed: int,
    size: tuple[int, int] | None,
    crop: bool,
    grey: bool,
) -> tuple[Images, Images, Images | None]:
    """Read a folder of images: ``(train, test, validation)``, as :func:`load_data` describes."""
    files, parts = find_files(folder)
    images = read_files(folder, files, size, crop, grey)  # together, so that they share classes
    if not parts:
        return *images.split(test_fraction, seed), None
    cut = {part: images.subset(torch.from_numpy(where)) for part, where in parts.items()}
    return cut["train"], cut["test"], cut.get("validation")
