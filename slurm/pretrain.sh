#!/usr/bin/env bash
# Pretrain ALBEF, under Slurm or on a machine without it, and resume after every interruption in the same run folder.
#
#   sbatch [sbatch options] slurm/pretrain.sh RECIPE [flags]    on a cluster
#   bash slurm/pretrain.sh RECIPE [flags]                       without Slurm: torchrun over this machine's GPUs
#
#   sbatch --gpus-per-node=8 --ntasks-per-node=8 slurm/pretrain.sh albef_14m --seed 3
#
# RECIPE and the flags are those of `python -m pipeline pretrain`. Relative paths count from the current folder.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-pretrain
#SBATCH --nodes=1                      # any number; the ranks must divide the recipe's lanes
#SBATCH --ntasks-per-node=1            # one task a GPU: give as many as --gpus-per-node
#SBATCH --cpus-per-task=8              # of each rank: its own thread and its loader workers
#SBATCH --time=24:00:00                # not the length of the run: the job requeues itself until the last step
#SBATCH --signal=USR1@300              # to the ranks, five minutes before the time limit: save and leave
#SBATCH --open-mode=append             # one log through all starts
#SBATCH --requeue                      # may start again after a node failure, and by itself
#SBATCH --output=slurm-%j.out          # linked into the run folder
#
# Settings from the environment, with their defaults:
#   RUN_DIR=runs/RECIPE                the run folder: checkpoints, metrics, logs; the flag --run-dir also sets it
#   NPROC=GPUs of this machine, or 1   without Slurm: the number of ranks
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules, network interface (site.example.sh)
#
# Exit codes: 0 the last step is done; 75 stopped as requested, and saved (Slurm: requeued); 69 a rank or data worker lost
# (Slurm: requeued, to resume from the latest checkpoint); 2 a mistake in the recipe or the command, which the error
# explains; anything else a crash, not requeued.
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool. Slurm knows the command it came from: a path, which may have blanks,
# and words. Without scontrol here: the project is where it was submitted.
script=${BASH_SOURCE[0]}
if [ ! -e "$(dirname "$script")/lib.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  rest="$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null | sed -n 's/^ *Command=//p' | head -n 1) " || :
  script=${rest%% *} rest=${rest#* }
  until [ -f "$script" ] || [ -z "$rest" ]; do script+=" ${rest%% *}" rest=${rest#* }; done
  [ -f "$script" ] || script=${SLURM_SUBMIT_DIR:-.}/slurm/pretrain.sh
fi
lib=$(dirname "$script")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$script" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

main() {
  local usage="sbatch slurm/pretrain.sh RECIPE [flags]; the recipe comes first, for example albef_14m"
  [ $# -gt 0 ] || fail "no recipe given" "$usage"
  case $1 in
    -h | --help) print_head && exit ;;
    -*) fail "$1 is not a recipe" "$usage" ;;
  esac
  run_dir=$(run_dir_of "$@")
  local unwritable="make room there or give another --run-dir, then submit the same command again"
  mkdir -p "$run_dir" || fail "run folder $run_dir cannot be made" "$unwritable"
  local at_start log=""
  at_start=$(latest)
  note_start "$run_dir/starts.log" latest "$at_start" || fail "run folder $run_dir cannot be written" "$unwritable"
  echo "START $(now_utc) run folder $run_dir, latest checkpoint $at_start, python $python"
  [ -z "$job" ] || log=$(job_log)
  local link=$run_dir/slurm-${SLURM_JOB_ID:-}.out
  [ -z "$log" ] || { [ -e "$link" ] && [ ! -L "$link" ]; } || ln -sfn "$log" "$link" || :    # a file there is the log itself

  # -P: a folder named `pipeline` where you stand is not ours
  run_ranks "$run_dir/exits.${SLURM_JOB_ID:-$$}" "$python" -P -m pipeline pretrain "$@" --run-dir "$run_dir"
  note_end "$code" || echo "warning: $run_dir/ends.log cannot be written" >&2    # a full disk must not hide the exit code
  echo "END $(now_utc) exit code $code, latest checkpoint $(latest)"

  # a lost rank is noticed long before Slurm notices that its node is down, and would requeue the job
  case $code in
    "$STOPPED_AND_SAVED" | "$RANK_LOST")
      [ -z "$job" ] || requeue "$run_dir/starts.log" "$(latest)" "the latest checkpoint" "$run_dir/stop"
      ;;
  esac
  exit "$code"
}

# The checkpoint that `latest` names, as far as a line can show it: after damage it may hold anything, or be a pipe.
latest() {
  local file=$run_dir/checkpoints/latest name=""
  [ ! -f "$file" ] || name=$(head -c 100 "$file" 2> /dev/null | tr -cd '[:alnum:]_.-') || :
  echo "${name:-none}"
}

# How this start ended; a start that was killed with -9, or whose node went down, has no such line.
note_end() {
  printf '%s job=%s start=%s code=%s latest=%s\n' \
    "$(now_utc)" "${job:-none}" "$(wc -l < "$run_dir/starts.log")" "$1" "$(latest)" >> "$run_dir/ends.log"
}

main "$@"
