#!/usr/bin/env bash
#SBATCH --job-name=adaptinfer-eval
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --open-mode=append
# A sweep on a Slurm allocation: Ray on all its nodes, the sweep on the first one.
#
#   sbatch docs/slurm.sh table1 [key=value ...]
#
# Submitted again it goes on where it was. Activate the environment before, or here, on every node.
set -euo pipefail

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address="${nodes[0]}:$((20000 + SLURM_JOB_ID % 20000))" # a port, and a folder, of this job alone
export RAY_TMPDIR="${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID"

start() { # NODE OPTION...: Ray on a node, until the job ends
  local node=$1
  shift
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" \
    ray start "$@" --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --disable-usage-stats --block &
}

trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
start "${nodes[0]}" --head --port="${address##*:}" --include-dashboard=false
until ray health-check --address "$address" 2> /dev/null; do
  kill -0 %1 # not for ever: the head may have ended
  sleep 1
done
for node in "${nodes[@]:1}"; do start "$node" --address="$address"; done
# A sweep asks once how many GPUs there are.
python - "$address" "${#nodes[@]}" << 'END'
import sys
import time

import ray

ray.init(sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
END

adaptinfer-eval run "$@" pool=ray ray_address="$address"
