#!/usr/bin/env bash
# On a cluster without internet: make .venv from the folder that slurm/make_wheelhouse.sh filled elsewhere.
#
#   bash slurm/install_wheelhouse.sh DIR
#
# No package index is used: a package that DIR lacks is an error. The project itself is installed in editable mode, so
# that a change in it needs no new installation.
#
# Settings from the environment, with their defaults:
#   PYTHON=python3                     the interpreter of the environment: the version DIR was made with
#   VENV=.venv                         folder of the environment, by default in the project; the scripts find another
#                                      one through PYTHON
#
# Exit codes: 0 installed; 2 a mistake, or a wheel that is missing or does not fit, which pip explains.
set -euo pipefail

lib=$(dirname "${BASH_SOURCE[0]}")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: run it where it lies, in slurm/\n' "$0" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

main() {
  [ $# -gt 0 ] || fail "no folder given" "bash slurm/install_wheelhouse.sh DIR; slurm/make_wheelhouse.sh makes it"
  case $1 in -h | --help) print_head && exit ;; esac
  local folder=$1 venv=${VENV:-$root/.venv} here
  [ -f "$folder/made_for" ] || fail "$folder is not a whole wheelhouse" "make it with slurm/make_wheelhouse.sh, and copy all of it"
  here=$(platform_of "${PYTHON:-python3}")
  [ "$here" = "$(< "$folder/made_for")" ] || fail "$folder is for $(< "$folder/made_for"), this is $here" \
    "PYTHON=/path/to/that/python, or make a wheelhouse with this one"
  "${PYTHON:-python3}" -m venv "$venv"
  # setuptools first: the project is built with that of the environment
  pip_install --requirement "$folder/requirements.lock" setuptools
  pip_install --no-build-isolation --editable "$root"
  touch "$venv/.stamp"    # so that make does not install it again
  echo "installed in $venv"
}

# Without an index, pip's configuration or its environment variables: only wheels in the folder are installed.
pip_install() {
  PIP_CONFIG_FILE=/dev/null "$venv/bin/python" -m pip --isolated install --quiet --disable-pip-version-check \
    --no-index --no-deps --find-links "$folder" "$@" ||
    fail "pip could not install from $folder" "see pip's message above; was the whole folder copied?"
}

main "$@"
