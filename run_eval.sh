#!/usr/bin/env bash
# Run a sweep and print its table. On a fresh machine this first makes an environment (.venv) and installs into it.
#
#   ./run_eval.sh                        every method on the shipped tiny model and mini tasks, 100 questions per task
#   ./run_eval.sh --full                 the same on all questions
#   ./run_eval.sh CONFIG [key=value …]   as `adaptinfer-eval run`: ./run_eval.sh table1 limit=50 workers=2
#   ./run_eval.sh --venv DIR […]         use or make the environment DIR instead
#   ./run_eval.sh --newest […]           on the newest releases instead of the tested ones (--oldest: the oldest)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=.ci/environment.sh
source "$here/.ci/environment.sh"

if [[ $# -eq 0 || $1 == --full || $1 == *=* ]]; then
  set -- mini "$@"
fi
environment ""
exec adaptinfer-eval run "$@"
