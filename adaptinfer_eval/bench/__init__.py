"""What methods cost in time and memory: `adaptinfer-eval bench`. Described in docs/cost.md."""
