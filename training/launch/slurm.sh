#!/bin/bash
# Post-training or pre-training on the machines of a Slurm job, one launcher on each:
#
#   sbatch --nodes 4 --gpus-per-node 8 training/launch/slurm.sh training/pretrain.py --data_dir ... --output_dir ...
#
# A job that is requeued, or submitted again, goes on from its last checkpoint. Where the machines share no file system,
# add `--save_on_each_node true`; each then reads or streams its own records.
#SBATCH --job-name=ecg-hf
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

gpus=${SLURM_GPUS_ON_NODE:-1}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export first gpus
# Ports of jobs on the same machines differ.
export port=$((20000 + SLURM_JOB_ID % 20000))

# --kill-on-bad-exit: a machine that is lost ends the job at once.
srun --kill-on-bad-exit=1 bash -c 'accelerate launch --quiet --config_file training/launch/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * gpus)) \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$first" --main_process_port "$port" \
    "$@" --expect_world_size $((SLURM_NNODES * gpus)) --resume_from_checkpoint true' launch "$@"
