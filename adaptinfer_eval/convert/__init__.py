"""Checkpoints in other layouts than Hugging Face's, written anew as ones that transformers loads unmodified."""
