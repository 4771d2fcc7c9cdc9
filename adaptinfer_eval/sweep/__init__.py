"""Sweeps: from one YAML file to a folder of answers, scores and records.

A *cell* is one (backbone, method, budget, task). `config` says what to run, `cells` lists the cells and their cost on
paper, `identity` what decides their answers, `jobs` what is left to do. `run` drives the rest: `shards` of questions go
by `dispatch` to the workers of one of the `pools`, each a `worker` with a loaded model; answers go to the `journal` and
from there, by `score`, into `records`.
"""
