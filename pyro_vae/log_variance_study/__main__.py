"""Write the verdicts, the answer and the figures again from results, without a measurement.

``python -m pyro_vae.log_variance_study FOLDER``, with the folder of a ``results.json``.
"""

import sys
from pathlib import Path

from ..errors import InputError
from . import read_results, write_report

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pyro_vae.log_variance_study FOLDER")
    folder = Path(sys.argv[1])
    try:
        write_report(folder, *read_results(folder / "results.json"))
    except InputError as error:
        sys.exit(f"Error: {error}")
