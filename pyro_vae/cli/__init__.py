"""``pyro-vae``: train a VAE from the command line, and use a trained run.

torch is imported when a command runs, not before, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

from ..runs.stopping import Signals, Stopped


def main() -> None:
    """Run the command line and exit; with 130 after Ctrl-C, and with 143 after SIGTERM."""
    try:
        with Signals():
            from .app import run  # a signal that comes while this is imported is caught, too

            code = run()
    except Stopped as stop:
        code = stop.exit_code
    sys.exit(code)
