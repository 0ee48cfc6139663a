#!/usr/bin/env bash
# Pretrain ALBEF, under Slurm or on a machine without it, and go on after every interruption in the same run folder.
#
#   sbatch [sbatch options] slurm/pretrain.sh RECIPE [flags]    on a cluster
#   bash slurm/pretrain.sh RECIPE [flags]                       without Slurm: torchrun over this machine's GPUs
#
#   sbatch --gpus-per-node=8 --ntasks-per-node=8 slurm/pretrain.sh albef_14m --seed 3
#
# RECIPE and the flags are those of `python -m pipeline pretrain`. Relative paths count from where you stand.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-pretrain
#SBATCH --nodes=1                      # any number; the ranks must divide the recipe's lanes
#SBATCH --ntasks-per-node=1            # one task a GPU: give as many as --gpus-per-node
#SBATCH --cpus-per-task=8              # of each rank: its own thread and its loader workers
#SBATCH --time=24:00:00                # not the length of the run: the job requeues itself until the last step
#SBATCH --signal=USR1@300              # to the ranks, five minutes before the time limit: save and leave
#SBATCH --open-mode=append             # one log through all starts
#SBATCH --requeue                      # may start again after a node failure, and by itself when stopped and saved
#SBATCH --output=slurm-%j.out          # linked into the run folder
#
# Settings from the environment, with their defaults:
#   RUN_DIR=runs/RECIPE                the run folder: checkpoints, metrics, logs; --run-dir says the same
#   NPROC=GPUs of this machine, or 1   without Slurm: the number of ranks
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules, network interface (site.example.sh)
#
# Exit codes: 0 the last step is done; 75 told to stop, and saved (Slurm: requeued); 2 a mistake in the recipe or the
# command, which the error explains; anything else a crash, not requeued.
set -euo pipefail

STOPPED_AND_SAVED=75
STARTS_WITHOUT_PROGRESS=2    # so many starts that leave the same latest checkpoint end the requeueing

main() {
  local usage="sbatch slurm/pretrain.sh RECIPE [flags]; the recipe comes first, for example albef_14m"
  [ $# -gt 0 ] || fail "no recipe given" "$usage"
  [[ $1 != -* ]] || fail "$1 is not a recipe" "$usage"
  root=$(find_root)
  # shellcheck source=/dev/null
  [ ! -e "$root/slurm/site.sh" ] || . "$root/slurm/site.sh"
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  python=${PYTHON:-$root/.venv/bin/python}
  [ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
  run_dir=$(run_dir_of "$@")
  exits=$run_dir/exits.${SLURM_JOB_ID:-$$}    # one file a rank, with its exit code

  rm -rf "$exits"
  mkdir -p "$exits"
  local at_start code
  at_start=$(latest)
  printf '%s job=%s restart=%s latest=%s\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${SLURM_JOB_ID:-none}" "${SLURM_RESTART_COUNT:-0}" "$at_start" >> "$run_dir/starts.log"
  echo "START $(date -u +%Y-%m-%dT%H:%M:%SZ) run folder $run_dir, latest checkpoint $at_start, python $python"

  # -P: a folder named `pipeline` where you stand is not ours
  command=("$python" -P -m pipeline pretrain "$@" --run-dir "$run_dir")
  if [ -n "${SLURM_JOB_ID:-}" ]; then launcher_of_slurm; else launcher_of_workstation; fi
  run_and_forward_signals && code=0 || code=$?
  code=$(code_of_ranks "$code")
  rm -rf "$exits"
  echo "END $(date -u +%Y-%m-%dT%H:%M:%SZ) exit code $code, latest checkpoint $(latest)"

  [ "$code" -ne "$STOPPED_AND_SAVED" ] || [ -z "${SLURM_JOB_ID:-}" ] || requeue
  exit "$code"
}

# Prints: the folder of --run-dir, else RUN_DIR, else the one named after the recipe.
run_dir_of() {
  local folder=${RUN_DIR:-runs/$(basename "${1%.y*ml}")}
  while [ $# -gt 0 ]; do
    case $1 in
      --run-dir) folder=${2:-$folder} ;;
      --run-dir=*) folder=${1#*=} ;;
    esac
    shift
  done
  echo "$folder"
}

# A rank leaves its exit code in a file, and 0 to its launcher when it stopped and saved: torchrun and srun kill the
# others as soon as one rank exits with anything else, and the others may still be closing their files. What the launchers
# exit with says little: torchrun gives 1 after any signal, srun the highest code, which is that of the ranks it killed.
# The traps keep the shell until its rank has answered; 138 is a rank that SIGUSR1 met before it listened, while starting
# up: nothing is lost, and STARTS_WITHOUT_PROGRESS bounds how often that may happen.
# shellcheck disable=SC2016  # expanded in the rank
AS_RANK=(bash -c 'trap : USR1 TERM INT; "${@:2}" && code=0 || code=$?
  [ "$code" -ne 138 ] || code=75
  echo "$code" > "$1/${RANK:-${SLURM_PROCID:-0}}"
  [ "$code" -ne 75 ] || code=0
  exit "$code"' rank)

# Prints: 75 if the ranks stopped and saved, the code of the rank that crashed first, else the launcher's own ($1).
code_of_ranks() {
  local rank code stopped=0 crash=""
  while read -r rank; do    # oldest first
    code=$(< "$exits/$rank")
    case $code in
      0) ;;
      "$STOPPED_AND_SAVED") stopped=$((stopped + 1)) ;;
      *) crash=${crash:-$code} ;;
    esac
  done < <(ls -tr "$exits")
  # srun's 0 needs no count: over a network the files of the other nodes may be seen late
  if [ -z "$crash" ] && [ "$stopped" -gt 0 ] && { [ "$1" -eq 0 ] || [ "$stopped" -eq "$num_ranks" ]; }; then
    echo "$STOPPED_AND_SAVED"
  else
    echo "${crash:-$1}"
  fi
}

# One task a GPU, all the node's GPUs visible to each; pipeline/distributed.py reads the ranks from SLURM_PROCID.
launcher_of_slurm() {
  local tasks=${SLURM_NTASKS_PER_NODE:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
  if [ "$gpus" -gt 0 ] && [ "$gpus" -ne "$tasks" ]; then
    fail "$gpus GPUs a node, but $tasks tasks" "sbatch --gpus-per-node=$gpus --ntasks-per-node=$gpus slurm/pretrain.sh ..."
  fi
  read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  if ! getent hosts "$MASTER_ADDR" > /dev/null; then    # a node name that is no host name: ask Slurm for its address
    MASTER_ADDR=$(scontrol show node -o "$MASTER_ADDR" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
  fi
  MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))         # two jobs on one node differ
  export MASTER_ADDR MASTER_PORT NCCL_DEBUG=${NCCL_DEBUG:-WARN} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  local log
  log=$(job_field StdOut)
  [ -z "$log" ] || ln -sfn "$log" "$run_dir/slurm-$SLURM_JOB_ID.out"
  echo "NODES ${SLURM_JOB_NODELIST} x $tasks tasks, meeting at $MASTER_ADDR:$MASTER_PORT"
  num_ranks=$((tasks * SLURM_JOB_NUM_NODES))
  launcher=(srun --ntasks-per-node="$tasks" --ntasks="$num_ranks" --kill-on-bad-exit=1)
  # srun no longer takes this from sbatch by itself (since Slurm 22.05)
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || launcher+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
  launcher+=("${AS_RANK[@]}" "$exits")
}

launcher_of_workstation() {
  local gpus=0
  ! command -v nvidia-smi > /dev/null || gpus=$(nvidia-smi --list-gpus 2> /dev/null | grep -c '^GPU') || gpus=0
  num_ranks=${NPROC:-$((gpus > 0 ? gpus : 1))}
  launcher=("${AS_RANK[@]}" "$exits")
  if [ "$num_ranks" -gt 1 ]; then
    # By default torchrun dies of SIGUSR1 and leaves its ranks behind, and kills ranks 30 s after a signal.
    local signals=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
    launcher=("$python" -m torch.distributed.run --standalone --nproc-per-node="$num_ranks" --signals-to-handle "$signals"
      --no-python "${launcher[@]}")
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  fi
}

# In the background and in a process group of its own, so that a signal to this script, or Ctrl-C, arrives exactly once.
run_and_forward_signals() {
  local child code name
  set -m
  "${launcher[@]}" "${command[@]}" < /dev/null &
  child=$!
  set +m
  for name in USR1 TERM INT; do
    # shellcheck disable=SC2064  # the child's number is known now
    trap "kill -s $name -- -$child 2> /dev/null || :" "$name"
  done
  # shellcheck disable=SC2064
  trap "kill -s TERM -- -$child 2> /dev/null || :" HUP
  while :; do    # a trapped signal ends `wait`, not the child
    wait "$child" && code=0 || code=$?
    kill -0 "$child" 2> /dev/null || return "$code"
  done
}

requeue() {
  local now stuck
  now=$(latest)
  stuck=$(tac "$run_dir/starts.log" | awk -v now="latest=$now" '$NF != now { exit } { same++ } END { print same + 0 }')
  if [ "$(job_field JobState)" != RUNNING ]; then    # asking Slurm for it would undo a scancel
    echo "not requeued: the job was cancelled or ran past its time limit; submit again to go on from $now"
  elif [ -e "$run_dir/stop" ]; then
    echo "not requeued: stopped by hand with $run_dir/stop; submit again to go on from $now"
  elif [ "$stuck" -ge "$STARTS_WITHOUT_PROGRESS" ]; then
    echo "error: not requeued: the last $stuck starts made no progress, the latest checkpoint is still $now" >&2
    echo "hint: is --time long enough to start up, take a step and save before the signal? see $run_dir/starts.log" >&2
    exit 1
  elif scontrol requeue "$SLURM_JOB_ID"; then
    echo "requeued job $SLURM_JOB_ID to go on from $now"
    exit 0
  else
    echo "error: saved, but Slurm did not requeue job $SLURM_JOB_ID" >&2
    echo "hint: submit the same command again and it goes on from $now" >&2
  fi
}

job_field() {
  scontrol show job "$SLURM_JOB_ID" | sed -n "s/^ *$1=\([^ ]*\).*/\1/p"
}

latest() {
  cat "$run_dir/checkpoints/latest" 2> /dev/null || echo none
}

# The project's folder. Under sbatch $0 is a copy in Slurm's spool, so Slurm is asked where the script came from.
find_root() {
  local script=${BASH_SOURCE[0]}
  if [ -n "${SLURM_JOB_ID:-}" ] && [ ! -e "$(dirname "$script")/../pipeline/train.py" ]; then
    script=$(job_field Command)
  fi
  cd -P "$(dirname "$script")/.." && [ -e pipeline/train.py ] && pwd && return
  fail "the project is not beside $script" "submit slurm/pretrain.sh where it lies, in the project's folder"
}

fail() {
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 2
}

main "$@"
