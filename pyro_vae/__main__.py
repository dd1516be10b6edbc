"""``python -m pyro_vae`` is the same as ``pyro-vae``."""

import os
import sys

# Python puts the current folder first. A file there could replace a module of a dependency.
if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    del sys.path[0]

from .cli import main

main()
