#!/usr/bin/env bash
# Choose which samples of verified folders stay: a stage between slurm/verify.sh and slurm/pretrain.sh (docs/filters.md).
#
#   sbatch [sbatch options] slurm/filter.sh DIR [DIR ...] --out CORPUS [flags]
#   bash slurm/filter.sh DIR [DIR ...] --out CORPUS [flags]    without Slurm
#
# The flags are those of `python -m data_prep filter`. Training takes CORPUS in data.manifests.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-filter
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8              # number of workers
#SBATCH --time=12:00:00
#SBATCH --open-mode=append
#SBATCH --requeue                      # after a node failure resumes with the images not read yet
#SBATCH --output=slurm-%j.out
#
# Settings from the environment, with their defaults:
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules (site.example.sh)
#
# Exit codes: 0 the manifest is written; 1 a worker was killed (the same command resumes), or too little stays; 2 a
# mistake in the command.
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool. Slurm knows the command it came from: a path, which may have blanks,
# and words. Without scontrol here: the project is where it was submitted.
script=${BASH_SOURCE[0]}
if [ ! -e "$(dirname "$script")/lib.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  rest="$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null | sed -n 's/^ *Command=//p' | head -n 1) " || :
  script=${rest%% *} rest=${rest#* }
  until [ -f "$script" ] || [ -z "$rest" ]; do script+=" ${rest%% *}" rest=${rest#* }; done
  [ -f "$script" ] || script=${SLURM_SUBMIT_DIR:-.}/slurm/filter.sh
fi
lib=$(dirname "$script")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$script" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

[ $# -gt 0 ] || fail "no folder given" "sbatch slurm/filter.sh DIR [DIR ...] --out CORPUS [flags]; DIR was verified"
case $1 in -h | --help) print_head && exit ;; esac
exec "$python" -P -m data_prep filter ${SLURM_CPUS_PER_TASK:+--processes "$SLURM_CPUS_PER_TASK"} "$@"
