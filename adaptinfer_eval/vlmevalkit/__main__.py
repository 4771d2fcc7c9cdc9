"""`python -m adaptinfer_eval.vlmevalkit`: VLMEvalKit's own command, which also knows METHOD_FAMILY_BUDGET.

Arguments are VLMEvalKit's: `--model adaptinfer_llava_64 vanilla_llava --data MME`, or `--config FILE`.
"""

from __future__ import annotations

import sys

from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.vlmevalkit.run import hand_over


def main() -> None:
    try:
        hand_over(sys.argv[1:], {}, {})
    except SweepError as error:
        print(f"vlmevalkit: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":  # not in workers, which import this module anew
    main()
