# shellcheck shell=bash
# What pretrain.sh and finetune.sh share: a training that resumes in its run folder and requeues its job. Sourced after
# lib.sh, not run.

# Trains in run folder $1 with `python -m pipeline $2...`, on all ranks, and exits with their code.
train() {
  run_dir=$1
  shift
  local unwritable="make room there or give another --run-dir, then submit the same command again"
  mkdir -p "$run_dir" || fail "run folder $run_dir cannot be made" "$unwritable"
  local at_start log=""
  at_start=$(latest)
  note_start "$run_dir/starts.log" latest "$at_start" || fail "run folder $run_dir cannot be written" "$unwritable"
  # shellcheck disable=SC2154    # python, job: of lib.sh
  echo "START $(now_utc) run folder $run_dir, latest checkpoint $at_start, python $python"
  [ -z "$job" ] || log=$(job_log)
  local link=$run_dir/slurm-${SLURM_JOB_ID:-}.out
  [ -z "$log" ] || { [ -e "$link" ] && [ ! -L "$link" ]; } || ln -sfn "$log" "$link" || :    # a file there is the log itself

  # -P: a folder named `pipeline` where you stand is not ours
  run_ranks "$run_dir/exits.${SLURM_JOB_ID:-$$}" "$python" -P -m pipeline "$@" --run-dir "$run_dir"
  # shellcheck disable=SC2154    # code: of run_ranks
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
