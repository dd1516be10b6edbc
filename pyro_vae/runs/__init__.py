"""Runs: a run folder, and how a run is set up, trained and used again.

- :mod:`.folder`: the files of a run folder;
- :mod:`.older`: the files of older versions;
- :mod:`.images`: the images that a command on a run works on;
- :mod:`.setup`: from settings to a VAE with its data;
- :mod:`.working`: begin, resume and train a run;
- :mod:`.card`: the ``README.md`` of a run;
- :mod:`.hub`: runs on the Hugging Face hub;
- :mod:`.resuming`: what is checked before a run is trained further;
- :mod:`.stopping`: Ctrl-C and SIGTERM;
- :mod:`.locking`: one process at a time trains in a run folder;
- :mod:`.failing` and :mod:`.replay`: the step at which a loss was lost, and what went wrong in it.
"""
