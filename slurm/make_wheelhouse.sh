#!/usr/bin/env bash
# On a machine with internet: put every package of requirements.lock into a folder, as wheels, for a cluster without.
# There slurm/install_wheelhouse.sh makes .venv from it.
#
#   bash slurm/make_wheelhouse.sh DIR
#
# Run it with the cluster's version of Python, on the same kind of processor and a system no newer (the wheels are those
# that pip picks for the machine it runs on). Packages that come as source only are built here. Then copy DIR over.
#
# Settings from the environment, with their defaults:
#   PYTHON=python3                     the interpreter to fetch for: 3.11 or 3.12
#   LOCK=requirements.lock             names and versions; pip's own configuration decides where they come from
#
# Exit codes: 0 the folder is complete; 2 a mistake, or a package that pip could not get, which it explains.
set -euo pipefail

lib=$(dirname "${BASH_SOURCE[0]}")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: run it where it lies, in slurm/\n' "$0" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

main() {
  [ $# -gt 0 ] || fail "no folder given" "bash slurm/make_wheelhouse.sh DIR"
  case $1 in
    -h | --help) print_head && exit ;;
    -*) fail "$1 is not a folder" "bash slurm/make_wheelhouse.sh DIR" ;;
  esac
  local folder=$1 lock=${LOCK:-$root/requirements.lock} more=()
  python=${PYTHON:-python3}
  [ -f "$lock" ] || fail "there is no lock $lock" "LOCK=FILE with lines NAME==VERSION"
  mkdir -p "$folder"
  local other
  other=$(find "$folder" -mindepth 1 -maxdepth 1 ! -name '*.whl' ! -name requirements.lock ! -name made_for | sort | head -n 1)
  [ -z "$other" ] || fail "$folder holds something else than a wheelhouse: ${other##*/}" "give a new folder"
  rm -f "$folder/made_for"    # written last: a folder without it is not complete
  venv=$(mktemp -d)
  trap 'rm -rf "$venv"' EXIT
  "$python" -m venv "$venv" || fail "$python cannot make a virtual environment" "PYTHON=python3.11, with its venv module"
  # setuptools: what installing the project itself takes
  grep -q '^setuptools==' "$lock" || more=(setuptools)
  "$venv/bin/python" -m pip wheel --no-deps --wheel-dir "$folder" --requirement "$lock" "${more[@]}" ||
    fail "pip could not get every package of $lock" "see pip's message above; the same command again resumes"
  cp "$lock" "$folder/requirements.lock"
  platform_of "$venv/bin/python" > "$folder/made_for"
  echo "$(find "$folder" -name '*.whl' | wc -l) wheels in $folder, for $(< "$folder/made_for")"
  echo "on the cluster: bash slurm/install_wheelhouse.sh $(basename "$folder")"
}

main "$@"
