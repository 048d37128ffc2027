#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster: a process a GPU, requeued when it was stopped.
#
#   launch/slurm.sh [flags] -- flags of mmkp_jax.main
#
# Flags
#   --nodes=N             (1)
#   --gpus=N              of a node (8); 0 runs one process a node, on its CPU
#   --cpus=N              of a process (8)
#   --restarts=N          how often the job queues again (50)
#   --time=LIMIT          of the job: 2-00:00:00, for one (the partition's)
#   --partition=NAME      (Slurm's own)
#   --account=NAME        (Slurm's own)
#   --dry_run             print every command, run none
#
# Any other option of sbatch is an environment variable: SBATCH_QOS=high, SBATCH_RESERVATION=…
#
# Run it with the environment activated that has mmkp_jax: jobs inherit it. A job that was stopped by a preemption or at
# its time limit, and has saved, queues again and resumes; so does one that lost a node, by Slurm itself. Any other status
# ends it, and scancel ends it for good. The job is launch/slurm.sbatch.
# --workdir, the data and this folder are on a file system that all nodes share.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus=8 cpus=8 restarts=50 time='' partition='' account=''
[[ ${1:-} != --help ]] || help
parse "nodes gpus cpus restarts time partition account" "dry_run" "$@"
need_number nodes 1
need_number gpus 0
need_number cpus 1
need_number restarts 0
need_program
need_command sbatch

options=("--nodes=$nodes" "--cpus-per-task=$cpus" ${time:+"--time=$time"})
options+=(${partition:+"--partition=$partition"} ${account:+"--account=$account"})
if ((gpus)); then options+=("--ntasks-per-node=$gpus" "--gpus-per-node=$gpus"); else options+=(--ntasks-per-node=1); fi
run sbatch "${options[@]}" launch/slurm.sbatch "$restarts" "${program[@]}"
