"""Imported by the process that workers are forked from: all that they would have to import themselves.

What cannot be imported is passed over here: a worker comes upon it again, and says so.
"""

from __future__ import annotations

import contextlib
import gc

with contextlib.suppress(Exception):
    import lmms_eval.evaluator
    import lmms_eval.models  # noqa: F401

    import adaptinfer_eval.sweep.worker  # noqa: F401

gc.freeze()  # a worker that looked for garbage among them would copy them all
