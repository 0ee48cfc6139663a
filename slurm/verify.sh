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
#SBATCH --cpus-per-task=8              # so many workers
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

# Under sbatch this file is a copy in Slurm's spool; Slurm knows where it came from.
lib=$(dirname "${BASH_SOURCE[0]}")/lib.sh
if [ ! -e "$lib" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  read -r lib < <(scontrol show job "$SLURM_JOB_ID" | sed -n 's,^ *Command=\([^ ]*\)/.*,\1/lib.sh,p') || :
fi
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: submit it where it lies, in slurm/\n' "$0" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

[ $# -gt 0 ] || fail "no folder given" "sbatch slurm/verify.sh DIR [flags]; DIR is the --out of slurm/download.sh"
case $1 in -h | --help) print_head && exit ;; esac
exec "$python" -P -m data_prep verify ${SLURM_CPUS_PER_TASK:+--processes "$SLURM_CPUS_PER_TASK"} "$@"
