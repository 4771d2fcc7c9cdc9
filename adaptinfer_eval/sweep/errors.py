"""The error that a user can put right; a module of its own, so that the command line knows it without the rest."""

from __future__ import annotations


class SweepError(Exception):
    """Something the user can put right; the message says how."""
