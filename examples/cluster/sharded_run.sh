#!/bin/bash
# A run whose replications are shared out to eight jobs with one GPU each. Start it on a login node, in
# tmux or with nohup; where it is interrupted or killed its jobs go on, and `realdataexp resume` finds
# them again:
#   ./sharded_run.sh kuairand-27k results/27k --data data/KuaiRand-27K --set cluster.partition=gpu
# The folder must be on storage that all nodes share.
set -euo pipefail
config=$1 out=$2

jobs=(--set cluster.gpus=1 --set cluster.cpus=32 --set cluster.memory_gb=64
  --set cluster.hours=23.5 --set cluster.warn_seconds=600)
# your environment on the nodes, such as: jobs+=(--set 'cluster.setup=[module load cuda]')

realdataexp run "$config" --out "$out" --executor slurm --shards 8 "${jobs[@]}" "${@:3}"
realdataexp perf "$out"
