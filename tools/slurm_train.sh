#!/usr/bin/env bash
# Trains on a SLURM cluster: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# GPUS (default 8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are read from the environment. The training is
# asked to save SIGNAL_SECONDS (120) before the time limit, 0: never. With REQUEUE=1 it then goes on: inside of a batch
# job that is requeued (sbatch --requeue), else in another srun.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,5s/^# //p' "$0"; exit 1; }
partition=$1 job=$2 config=$3 work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
[ "$gpus" -lt "$per_node" ] && per_node=$gpus
here=$(cd "$(dirname "$0")" && pwd)
stopped=138 # 128 + SIGUSR1: saved, and not finished

# When it goes on it takes what is in the work dir, and no longer what it once began with.
go_on() {
  options=()
  while [ $# -gt 0 ]; do
    case $1 in
      --load-from | --pretrained) shift ;;
      --resume) [[ ${2:-} == -* || $# -eq 1 ]] || shift ;;
      --load-from=* | --pretrained=* | --resume=*) ;;
      *) options+=("$1") ;;
    esac
    shift
  done
  options+=(--resume)
}

options=("$@")
[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && go_on "$@"
# A process that ends at once when another has saved and left would hide that exit code, so they get a minute.
ending=(--kill-on-bad-exit=1)
[ "${REQUEUE:-0}" != 0 ] && ending=(--kill-on-bad-exit=0 --wait=60)
[ "${SIGNAL_SECONDS:-120}" != 0 ] && ending+=("--signal=USR1@${SIGNAL_SECONDS:-120}")
while true; do
  code=0
  # shellcheck disable=SC2086 - SRUN_ARGS is a list of words
  srun -p "$partition" --job-name="$job" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" "${ending[@]}" ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$here/train.py" "$config" --work-dir "$work_dir" --launcher slurm \
    ${options[@]+"${options[@]}"} || code=$?
  [ $code = $stopped ] && [ "${REQUEUE:-0}" != 0 ] || exit $code
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "The time is up: requeueing job $SLURM_JOB_ID." >&2
    exec scontrol requeue "$SLURM_JOB_ID"
  fi
  echo "The time is up: going on in another job." >&2
  go_on "$@"
done
