#!/usr/bin/env bash
# Download a list of image URLs into shards, cut into parts that run at the same time, each on its own machine.
#
#   sbatch --array=1-16 [sbatch options] slurm/download.sh --urls FILE --out DIR [flags]    one part a task
#   bash slurm/download.sh --urls FILE --out DIR [flags]    without Slurm: the whole list, on this machine
#   PARTS=16 bash slurm/download.sh ...                    without Slurm: part after part; with PART=3 the third alone
#
# The flags are those of `python -m data_prep download`. Relative paths count from the current folder. After the last part
# slurm/verify.sh DIR checks all shards and writes the manifest. To resume after a failure or a kill, give the same
# command again, with the same number of parts or another; finished shards are not fetched again.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-download
#SBATCH --array=1-8                    # one task for each part; 1-16%4 runs four at a time
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8              # number of workers that fetch, and of workers that encode
#SBATCH --time=24:00:00                # a part that needs longer requeues itself
#SBATCH --signal=B:USR1@120            # to this script, two minutes before the time limit: stop, then requeue
#SBATCH --open-mode=append             # one log through all starts
#SBATCH --requeue                      # may start again after a node failure
#SBATCH --output=slurm-%A_%a.out
#
# Settings from the environment, with their defaults:
#   PARTS=tasks of the array, or 1     number of parts. To run a few of them again under Slurm:
#                                      PARTS=16 sbatch --array=3,7 slurm/download.sh ...
#   PART=                              without Slurm: the only one to run, from 1 to PARTS
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules, proxies (site.example.sh)
#
# Exit codes: those of `data_prep download`: 0 every row of the part is a sample or a counted failure; 1 unfinished, or
# (the whole list, not a part) below --min-yield; 2 a mistake in the command, which the error explains; 143 stopped by a
# signal (Slurm: requeued before the time limit).
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool. Slurm knows the command it came from: a path, which may have blanks,
# and words. Without scontrol here: the project is where it was submitted.
script=${BASH_SOURCE[0]}
if [ ! -e "$(dirname "$script")/lib.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  rest="$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null | sed -n 's/^ *Command=//p' | head -n 1) " || :
  script=${rest%% *} rest=${rest#* }
  until [ -f "$script" ] || [ -z "$rest" ]; do script+=" ${rest%% *}" rest=${rest#* }; done
  [ -f "$script" ] || script=${SLURM_SUBMIT_DIR:-.}/slurm/download.sh
fi
lib=$(dirname "$script")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$script" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

main() {
  local usage="sbatch --array=1-16 slurm/download.sh --urls FILE --out DIR [flags]" code
  [ $# -gt 0 ] || fail "no list given" "$usage"
  case $1 in -h | --help) print_head && exit ;; esac
  out=$(flag_value --out "" "$@")
  [ -n "$out" ] || fail "no --out given" "$usage"
  case $out in *://*) fail "--out $out is a URI, and requeueing counts finished shards in a folder" \
    "a folder that all nodes see; or data_prep download --part I/N --work DIR in a script of your own" ;; esac
  choose_parts
  for part in $chosen; do
    download_part "$@" && code=0 || code=$?
    [ "$code" -eq 0 ] || exit "$code"
  done
}

# Sets: parts, how many there are; chosen, the numbers of those to run here.
choose_parts() {
  parts=${PARTS:-${SLURM_ARRAY_TASK_MAX:-1}}
  chosen=${SLURM_ARRAY_TASK_ID:-${PART:-}}
  [[ $parts =~ ^[1-9][0-9]*$ ]] || fail "PARTS=$parts is not a number of parts" "PARTS=16, or leave it out"
  # shellcheck disable=SC2153  # SLURM_ARRAY_TASK_MIN and the others are Slurm's
  if [ -z "${PARTS:-}" ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ] &&
    [ "$SLURM_ARRAY_TASK_MIN-$SLURM_ARRAY_TASK_COUNT" != "1-$SLURM_ARRAY_TASK_MAX" ]; then
    fail "the array has $SLURM_ARRAY_TASK_COUNT tasks from $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX, of how many parts?" \
      "number the tasks --array=1-N, or set PARTS: PARTS=N sbatch --array=... slurm/download.sh ..."
  fi
  if [ -n "$chosen" ] && { [[ ! $chosen =~ ^[1-9][0-9]*$ ]] || [ "$chosen" -gt "$parts" ]; }; then
    fail "there is no part $chosen of $parts" "parts are numbered from 1 to $parts"
  fi
  chosen=${chosen:-$(seq "$parts")}
}

# Runs one part; requeues the job when the time limit stopped it. Returns: the exit code of data_prep.
download_part() {
  local starts=$out/.work/starts.part-$part-of-$parts.log code last_signal
  local command=("$python" -P -m data_prep download --part "$part/$parts")
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || command+=(--processes "$SLURM_CPUS_PER_TASK")
  echo "START $(now_utc) part $part of $parts into $out, python $python"
  if [ -n "$job" ]; then
    mkdir -p "$out/.work"
    note_start "$starts" shards "$(num_finished)"
  fi
  USR1_AS=TERM
  run_and_forward_signals "${command[@]}" "$@" && code=0 || code=$?
  echo "END $(now_utc) part $part of $parts, exit code $code"
  if [ "$code" -ne 0 ] && [ "$last_signal" = USR1 ] && [ -n "$job" ]; then
    requeue "$starts" "$(num_finished)" "the number of finished shards of part $part" ""
  fi
  return "$code"
}

# Prints: the number of finished shards of this part (data_prep/output/parts.py: every $parts-th shard).
num_finished() {
  local record number count=0
  for record in "$out"/shards/*-[0-9]*.json; do
    number=${record##*-}
    number=${number%.json}
    [[ ! $number =~ ^[0-9]+$ ]] || [ $((10#$number % parts)) -ne $((part - 1)) ] || count=$((count + 1))
  done
  echo "$count"
}

main "$@"
