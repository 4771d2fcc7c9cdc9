"""The only place that touches a model: attach a method, observe attention, shorten the sequence, restore."""

from adaptinfer_eval.pruning.attach import pruned

__all__ = ["pruned"]
