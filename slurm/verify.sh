#!/usr/bin/env bash
# Check every shard of a folder and write its manifest: the stage between slurm/download.sh and slurm/pretrain.sh.
#
#   sbatch [sbatch options] slurm/verify.sh DIR [flags]
#   bash slurm/verify.sh DIR [flags]                           without Slurm
#
# DIR and the flags are those of `python -m data_prep verify`: --sample 0.05 decodes a twentieth of the images only.
#
# sbatch options; what a site needs beside them (account, partition) goes on the command line or in SBATCH_* variables:
#SBATCH --job-name=albef-verify
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8              # number of workers
#SBATCH --time=12:00:00
#SBATCH --open-mode=append
#SBATCH --requeue                      # may start again, from the first shard, after a node failure
#SBATCH --output=slurm-%j.out
#
# Settings from the environment, with their defaults:
#   PYTHON=.venv/bin/python            of the project, else the first python3 on PATH
#   slurm/site.sh                      read first if it exists: modules (site.example.sh)
#
# Exit codes: 0 all is whole, the manifest is written; 1 something is wrong, no manifest; 2 a mistake in the command.
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool. Slurm knows the command it came from: a path, which may have blanks,
# and words. Without scontrol here: the project is where it was submitted.
script=${BASH_SOURCE[0]}
if [ ! -e "$(dirname "$script")/lib.sh" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  rest="$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null | sed -n 's/^ *Command=//p' | head -n 1) " || :
  script=${rest%% *} rest=${rest#* }
  until [ -f "$script" ] || [ -z "$rest" ]; do script+=" ${rest%% *}" rest=${rest#* }; done
  [ -f "$script" ] || script=${SLURM_SUBMIT_DIR:-.}/slurm/verify.sh
fi
lib=$(dirname "$script")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$script" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

[ $# -gt 0 ] || fail "no folder given" "sbatch slurm/verify.sh DIR [flags]; DIR is the --out of slurm/download.sh"
case $1 in -h | --help) print_head && exit ;; esac
exec "$python" -P -m data_prep verify ${SLURM_CPUS_PER_TASK:+--processes "$SLURM_CPUS_PER_TASK"} "$@"
