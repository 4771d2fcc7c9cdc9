#!/usr/bin/env bash
#SBATCH --job-name=adaptinfer-eval
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --no-kill
#SBATCH --open-mode=append
# A sweep on a Slurm allocation: Ray on all its nodes, the sweep on the first one.
#
#   sbatch docs/slurm.sh table1 [key=value ...]
#
# Submitted again it goes on where it was. Activate the environment before, or here, on every node.
set -euo pipefail

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address="${nodes[0]}:$((20000 + SLURM_JOB_ID % 20000))" # a port, and a folder, of this job alone
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" # with sockets, whose paths have to be short: a job's own TMPDIR may not be
# Who reaches the port can run code as you: Ray asks for this job's token, which srun hands to every node.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

started=()
start() { # NODE OPTION...: Ray on a node, until the job ends
  local node=$1
  shift
  # srun takes the number of cores from its own options alone: without it, Ray has one.
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray start "$@" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
  started+=($!)
}

await() { # COMMAND...: until it succeeds; not for ever, for a node may have failed
  local node
  until "$@"; do
    for node in "${!started[@]}"; do
      if ! kill -0 "${started[node]}" 2> /dev/null; then
        echo "Ray ended on ${nodes[node]} before the sweep began: its reason stands above" >&2
        exit 1
      fi
    done
    sleep 1
  done
}

head_answers() {
  ray health-check --address "$address" &> /dev/null
}

all_are_there() { # a sweep asks once how many GPUs there are
  python - "$address" "${#nodes[@]}" << 'END'
import sys

import ray

ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))
END
}

trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
start "${nodes[0]}" --head --port="${address##*:}" --include-dashboard=false
await head_answers
for node in "${nodes[@]:1}"; do start "$node" --address="$address"; done
await all_are_there

adaptinfer-eval run "$@" pool=ray ray_address="$address"
