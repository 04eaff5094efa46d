"""Experiments: one YAML names the notebooks, their parameters and the data; `python -m papermill_runs NAME` runs it."""
