"""What a sweep's records say, for people to read."""

DEFAULT_LINEAGE = "adaptinfer_v1"
"""Whose published numbers tables are compared with."""
