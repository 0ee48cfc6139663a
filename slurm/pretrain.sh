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
# shellcheck source=slurm/training.sh
. "${lib%lib.sh}training.sh"

usage="sbatch slurm/pretrain.sh RECIPE [flags]; the recipe comes first, for example albef_14m"
[ $# -gt 0 ] || fail "no recipe given" "$usage"
case $1 in
  -h | --help) print_head && exit ;;
  -*) fail "$1 is not a recipe" "$usage" ;;
esac
train "$(run_dir_of "$@")" pretrain "$@"
