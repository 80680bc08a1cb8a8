#!/usr/bin/env bash
# Train as a slurm job.
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
#
# GPUS is the number of processes. GPUS_PER_NODE=0 asks for no GPU; CPU_TASKS_PER_NODE then says how many run per machine.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
gpus="${GPUS:-8}"
per_node="${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}"
tasks=(--ntasks="$gpus" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1)
if [ "$per_node" -gt 0 ]; then
    tasks+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
else
    tasks+=(--ntasks-per-node="${CPU_TASKS_PER_NODE:-$gpus}")
fi
read -r -a extra <<< "${SRUN_ARGS:-}"
exec srun -p "$1" --job-name="$2" "${tasks[@]}" ${extra[@]+"${extra[@]}"} \
    "${PYTHON:-python}" -u "$here/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}"
