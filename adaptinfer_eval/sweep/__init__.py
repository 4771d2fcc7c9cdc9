"""Sweeps: from one YAML file to a folder of cell records.

A *cell* is one (backbone, method, budget, task). `config` says what to run, `cells` lists the cells and their
cost on paper, `evaluate` answers one cell with one loaded model, `records` keeps what came out, `run` drives
the rest.
"""
