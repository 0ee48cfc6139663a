#!/usr/bin/env bash
# Turn a run's latest checkpoint into a model folder, or into the official .pth: the stage after slurm/pretrain.sh.
#
#   sbatch [sbatch options] slurm/export.sh RUN --out DIR [flags]
#   bash slurm/export.sh RUN --out DIR [flags]                 without Slurm
#
# RUN and the flags are those of `python -m pipeline export`. Needs no GPU.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-export
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --open-mode=append
#SBATCH --requeue                      # may start again after a node failure: the folder appears whole or not at all
#SBATCH --output=slurm-%j.out
#
# Settings from the environment, with their defaults:
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules (site.example.sh)
#
# Exit codes: 0 exported; 2 a mistake in the command or an unusable checkpoint, which the error explains.
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool. Slurm knows the command it came from: a path, which may have blanks,
# and words. Without scontrol here: the project is where it was submitted.
script=${BASH_SOURCE[0]}
if [ ! -e "$(dirname "$script")/lib.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  rest="$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null | sed -n 's/^ *Command=//p' | head -n 1) " || :
  script=${rest%% *} rest=${rest#* }
  until [ -f "$script" ] || [ -z "$rest" ]; do script+=" ${rest%% *}" rest=${rest#* }; done
  [ -f "$script" ] || script=${SLURM_SUBMIT_DIR:-.}/slurm/export.sh
fi
lib=$(dirname "$script")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$script" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

[ $# -gt 0 ] || fail "no run given" "sbatch slurm/export.sh RUN --out DIR [flags]; RUN is a run folder, or a step_* folder"
case $1 in -h | --help) print_head && exit ;; esac
exec "$python" -P -m pipeline export "$@"
