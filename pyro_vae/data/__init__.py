"""Data: named sets and the user's own images, arrays and tables, split and cut into batches.

Example:
    >>> data = load_data("digits", binarize="dynamic")
    >>> batches = data.train.batches(128, shuffle=True)
    >>> next(batches).shape  # [B, C, H, W]
    torch.Size([128, 1, 8, 8])
"""

from .datasets import DATASETS, DataSet, data_folder
from .images import BINARIZE, Images
from .loading import Data, load_data
from .opening import StoredData, open_data
from .schema import Schema
from .stored import StoredImages, in_memory

__all__ = [
    "BINARIZE",
    "DATASETS",
    "Data",
    "DataSet",
    "Images",
    "Schema",
    "StoredData",
    "StoredImages",
    "data_folder",
    "in_memory",
    "load_data",
    "open_data",
]
