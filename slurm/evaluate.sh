#!/usr/bin/env bash
# Evaluate an exported model on a task, under Slurm or on a machine without it, its GPUs sharing the work.
#
#   sbatch [sbatch options] slurm/evaluate.sh TASK --model DIR --annotations FILE --images ROOT --out FILE [flags]
#   bash slurm/evaluate.sh TASK ...                            without Slurm: torchrun over this machine's GPUs
#
#   sbatch --gpus-per-node=4 --ntasks-per-node=4 slurm/evaluate.sh retrieval --model models/albef_14m \
#     --annotations coco_test.json --images /coco --k-test 256 --out coco.json
#
# TASK and the flags are those of `python -m pipeline evaluate`. Relative paths count from the current folder.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1            # one task a GPU: give as many as --gpus-per-node
#SBATCH --cpus-per-task=8              # of each rank: its own thread and those that load images
#SBATCH --time=04:00:00
#SBATCH --open-mode=append
#SBATCH --requeue                      # may start again, from the first image, after a node failure
#SBATCH --output=slurm-%j.out
#
# Settings from the environment, with their defaults:
#   NPROC=GPUs of this machine, or 1   without Slurm: the number of ranks
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules, network interface (site.example.sh)
#
# Exit codes: 0 the numbers are in --out; 2 a mistake in the command, which the error explains; anything else a crash.
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool. Slurm knows the command it came from: a path, which may have blanks,
# and words. Without scontrol here: the project is where it was submitted.
script=${BASH_SOURCE[0]}
if [ ! -e "$(dirname "$script")/lib.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  rest="$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null | sed -n 's/^ *Command=//p' | head -n 1) " || :
  script=${rest%% *} rest=${rest#* }
  until [ -f "$script" ] || [ -z "$rest" ]; do script+=" ${rest%% *}" rest=${rest#* }; done
  [ -f "$script" ] || script=${SLURM_SUBMIT_DIR:-.}/slurm/evaluate.sh
fi
lib=$(dirname "$script")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$script" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

usage="sbatch slurm/evaluate.sh TASK --model DIR --annotations FILE --images ROOT --out FILE [flags]"
[ $# -gt 0 ] || fail "no task given" "$usage"
case $1 in -h | --help) print_head && exit ;; esac
out=$(flag_value --out "" "$@")
[ -n "$out" ] || fail "no --out given" "$usage"
mkdir -p "$(dirname "$out")"
run_ranks "$(dirname "$out")/.exits.${SLURM_JOB_ID:-$$}" "$python" -P -m pipeline evaluate "$@"
exit "$code"
