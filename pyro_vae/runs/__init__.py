"""Runs: a run folder, and how a run is set up, trained and used again.

- :mod:`.folder`: the files of a run folder;
- :mod:`.setup`: from settings to a VAE with its data;
- :mod:`.working`: begin, resume and train a run;
- :mod:`.writing`: write a file under a temporary name, then rename it.
"""
