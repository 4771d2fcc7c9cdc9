#!/usr/bin/env bash
# Lint, types, tests. Makes an environment (.venv) and installs into it first, if need be.
#
#   ./run_tests.sh [--venv DIR] [--newest | --oldest] [pytest arguments]
#
# On the tested releases of everything; --newest, --oldest: on the newest or oldest that pyproject.toml allows.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=.ci/environment.sh
source "$here/.ci/environment.sh"

environment "[dev]"
cd "$here"
ruff check
ruff format --check
shellcheck --external-sources run_eval.sh run_tests.sh docs/slurm.sh .ci/run .ci/vlmevalkit
[[ $versions == oldest ]] || mypy # old releases declare other types
# One thread per test process: two of them already fill two cores.
OMP_NUM_THREADS=1 python -m pytest -n 2 "$@"
