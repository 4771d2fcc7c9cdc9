"""The only place that touches a model: attach a method, observe attention, shorten the sequence, restore."""

from adaptinfer_eval.pruning.attach import observed, pruned

__all__ = ["observed", "pruned"]
