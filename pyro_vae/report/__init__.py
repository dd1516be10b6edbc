"""The report of an evaluation.

- :mod:`.table`: all measures of :mod:`~pyro_vae.evaluation` in one table;
- :mod:`~pyro_vae.report.figures`: the pictures that go with it.
"""
