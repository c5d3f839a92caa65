#!/bin/bash
# One run on two nodes of eight GPUs:   sbatch docs/slurm.sh configs/imagenet/resnet50_vicreg.py
# Not run on a cluster by us; `bash -n` and the tests of several processes are what was checked.
#SBATCH --job-name=pal_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end of its time each process gets SIGTERM: it saves and ends with 130.
#SBATCH --signal=TERM@120
set -euo pipefail

config=$1
shift
. "$HOME/env/bin/activate"
cd "$SLURM_SUBMIT_DIR"

# One process a node drives all its GPUs: under SLURM JAX would take one GPU a process if it were not
# told which. It asks SLURM for the other nodes.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS

# The workdir is on a disk that all nodes see, and its name does not change, so a job that is queued
# again goes on. Whoever ends first must not take those with it that still save.
status=0
srun --kill-on-bad-exit=0 python main.py --config="$config" \
    --workdir="$SLURM_SUBMIT_DIR/runs/$(basename "$config" .py)" "$@" || status=$?

if [ "$status" = 130 ]; then # stopped in time, with everything saved: go on when there is room
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
