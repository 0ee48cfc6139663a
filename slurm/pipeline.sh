#!/usr/bin/env bash
# The whole chain; each stage starts when the one before it has succeeded:
# download (an array, one task a part) -> verify -> filter, if asked for -> pretrain -> export -> evaluate.
#
#   bash slurm/pipeline.sh [--dry-run] [--local] RECIPE [flags]
#
#   URLS=cc3m.tsv DOWNLOAD_FLAGS='--columns caption,url' PARTS=16 PRETRAIN_SBATCH='--gpus-per-node=8 --ntasks-per-node=8' \
#     EVALUATE_FLAGS='--annotations coco_test.json --images /coco' bash slurm/pipeline.sh albef_14m --seed 3
#
# RECIPE and the flags are those of `python -m pipeline pretrain`. Before anything is submitted, and with --dry-run, the
# script names everything that a stage would miss: weights, shards and folders that no stage before it makes. On a
# cluster the stages are submitted with dependencies, with a line `STAGE JOBID after JOBID` for each; a stage whose
# predecessor failed is cancelled. Without Slurm, or with --local, they run here one after another. --dry-run prints
# the commands and does nothing else. Run this on a login node; it is not a job itself.
#
# Settings from the environment, with their defaults. FLAGS and SBATCH hold words as you would type them, quotes included.
#   STAGES='download verify filter pretrain export evaluate'    or a part of them
#   URLS=                              the list of URLs; download needs it
#   DATA=data/LIST                     the folder of the shards, which pretrain reads instead of the recipe's
#                                      data.manifests; without download and verify: the recipe's, unless it is set
#   CORPUS=                            the folder that filter writes and pretrain reads instead of DATA; without it there
#                                      is no filter
#   PARTS=8                            parts of the download; without Slurm: 1
#   RUN_DIR=runs/RECIPE                the run folder; the flag --run-dir also sets it
#   MODEL=models/RECIPE                the exported model
#   METRICS=RUN_DIR/evaluation.json    what evaluate writes
#   EVALUATE_FLAGS=                    what to evaluate on; evaluate needs it: --annotations FILE --images ROOT, or --data DIR
#   DOWNLOAD_FLAGS= VERIFY_FLAGS= FILTER_FLAGS= EXPORT_FLAGS=    further flags of these stages' commands; filter's may
#                                      begin with further folders
#   DOWNLOAD_SBATCH= VERIFY_SBATCH= FILTER_SBATCH= PRETRAIN_SBATCH= EXPORT_SBATCH= EVALUATE_SBATCH=
#                                      sbatch options of a stage: GPUs, time, partition; --array=1-16%4 for download
#   CHECK=yes                          no: submit the recipe unchecked, where the project is not installed on this machine
#   AFTER=                             jobs ID:ID that the first stage waits for
#   PYTHON, NPROC, slurm/site.sh       as in the other scripts, which are where a stage's own options are explained
#
# Exit codes: 0 submitted, or all done; 2 a mistake in the settings or the recipe; without Slurm that of the stage that
# failed: 75 when pretraining stopped as requested and saved.
set -euo pipefail

lib=$(dirname "${BASH_SOURCE[0]}")/lib.sh
[ -e "$lib" ] || { printf 'error: no lib.sh beside %s\nhint: run it where it lies, in slurm/\n' "$0" >&2; exit 2; }
# shellcheck source=slurm/lib.sh
. "$lib"

ALL_STAGES=(download verify filter pretrain export evaluate)

main() {
  local usage="bash slurm/pipeline.sh [--dry-run] [--local] RECIPE [flags]; bash slurm/pipeline.sh --help explains the settings"
  local stage after=${AFTER:-}
  read_options "$@"
  set -- "${@:$((num_options + 1))}"
  [ $# -gt 0 ] || fail "no recipe given" "$usage"
  [[ $1 != -* ]] || fail "$1 is not an option of this script, or stands before the recipe" "$usage"
  settle "$@"
  [ "${CHECK:-yes}" = no ] || look_ahead
  [ -n "$dry" ] || [ -n "$local" ] || without_own_job
  for stage in "${stages[@]}"; do
    if [ -n "$local" ]; then run_here "$stage"; else submit "$stage"; fi
  done
}

read_options() {
  num_options=0 dry="" local=""
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) print_head && exit ;;
      --dry-run) dry=yes ;;
      --local) local=yes ;;
      *) break ;;
    esac
    num_options=$((num_options + 1))
    shift
  done
  command -v sbatch > /dev/null || local=yes
}

# Sets, from RECIPE and flags: stages; and the words of each stage's script: download, verify, filter, pretrain, export,
# evaluate.
settle() {
  local run_dir data=${DATA:-} model name stage
  run_dir=$(run_dir_of "$@")
  name=$(basename "${1%.y*ml}")
  model=${MODEL:-models/$name}
  read_stages
  if wanted download; then
    [ -n "${URLS:-}" ] || fail "download has no list" "URLS=FILE bash slurm/pipeline.sh ..., or leave download out of STAGES"
    [ -f "$URLS" ] || fail "there is no list $URLS" "URLS is the file of URLs and captions"
    name=$(basename "$URLS")
    data=${data:-data/${name%.*}}
  fi
  for stage in verify filter; do
    ! wanted "$stage" || [ -n "$data" ] || fail "$stage has no folder" "DATA=DIR, where the shards are"
  done
  ! wanted filter || [ -n "${CORPUS:-}" ] || fail "filter has no folder to write to" "CORPUS=DIR, or leave filter out of STAGES"
  words DOWNLOAD_FLAGS
  # shellcheck disable=SC2034  # these arrays are used by the stage's name
  download=(--urls "${URLS:-}" --out "$data" "${found[@]}")
  words VERIFY_FLAGS
  # shellcheck disable=SC2034
  verify=("$data" "${found[@]}")
  words FILTER_FLAGS
  # shellcheck disable=SC2034
  filter=("$data" "${found[@]}" --out "${CORPUS:-}")
  data=${CORPUS:-$data}
  pretrain=("$1" ${data:+--data.manifests "$data"} "${@:2}" --run-dir "$run_dir")
  words EXPORT_FLAGS
  # shellcheck disable=SC2034
  export=("$run_dir" --out "$model" "${found[@]}")
  words EVALUATE_FLAGS
  if wanted evaluate && [[ " ${found[*]}" != *" --annotations"* && " ${found[*]}" != *" --data"* ]]; then
    fail "evaluate has nothing to evaluate on" \
      "EVALUATE_FLAGS='--annotations FILE --images ROOT' or '--data DIR', or leave evaluate out of STAGES"
  fi
  # shellcheck disable=SC2034
  evaluate=(retrieval --model "$model" --out "${METRICS:-$run_dir/evaluation.json}" "${found[@]}")
}

# Names everything that a stage would find missing and that no stage before it makes; exits with 2 if there is anything.
# `pipeline check` knows what training needs.
look_ahead() {
  local made_later=() missing=0
  ! { wanted download || wanted verify || wanted filter || [ -n "${AFTER:-}" ]; } || made_later=(--without-data)
  if wanted pretrain; then
    "$python" -P -m pipeline check "${pretrain[@]}" "${made_later[@]}" > /dev/null || missing=2
  fi
  if [ -z "${AFTER:-}" ]; then
    wanted download || ! wanted verify || needs "${verify[0]}" "verify has no shards" "STAGES with download, or DATA=DIR"
    wanted verify || ! wanted filter || needs "${filter[0]}" "filter has no shards" "STAGES with verify, or DATA=DIR"
    wanted pretrain || ! wanted export || needs "${export[0]}" "export has no run" "STAGES with pretrain, or RUN_DIR=DIR"
    wanted export || ! wanted evaluate || needs "${evaluate[2]}" "evaluate has no model" "STAGES with export, or MODEL=DIR"
  fi
  [ "$missing" -eq 0 ] || exit 2
}

# Sets: missing, when there is no folder $1 on this machine; URLs are not checked.
needs() {
  [[ $1 != *://* && ! -d $1 ]] || return 0
  printf 'error: %s: there is no folder %s\nhint: %s\n' "$2" "$1" "$3" >&2
  missing=2
}

# Sets: stages, those of STAGES in the order of the chain.
read_stages() {
  local stage
  stages=()
  for stage in ${STAGES:-}; do
    [[ " ${ALL_STAGES[*]} " = *" $stage "* ]] || fail "there is no stage $stage" "STAGES holds some of: ${ALL_STAGES[*]}"
  done
  for stage in "${ALL_STAGES[@]}"; do
    [ -n "${STAGES:-}" ] || [ "$stage" != filter ] || [ -n "${CORPUS:-}" ] || continue
    [[ " ${STAGES:-${ALL_STAGES[*]}} " != *" $stage "* ]] || stages+=("$stage")
  done
}

wanted() {
  [[ " ${stages[*]} " = *" $1 "* ]]
}

# Sets: found, the words in variable $1, split as a shell would.
words() {
  local text
  found=()
  [ -n "${!1:-}" ] || return 0
  text=$(xargs printf '%s\n' <<< "${!1}" 2> /dev/null) || fail "$1 has a quote that does not close: ${!1}" "close it"
  mapfile -t found <<< "$text"
}

# Submits stage $1 behind jobs `after`; sets `after` to its job.
submit() {
  local stage=$1 id command name="${1^^}_SBATCH"
  local -n arguments=$stage
  command=(sbatch --parsable)
  [ "$stage" != download ] || command+=(--array="1-${PARTS:-8}")
  [ -z "$after" ] || command+=(--dependency="afterok:$after" --kill-on-invalid-dep=yes)
  words "$name"
  command+=("${found[@]}" "$root/slurm/$stage.sh" "${arguments[@]}")
  if [ -n "$dry" ]; then
    print_command "${command[@]}"
    after="ID_OF_${stage^^}"
    return
  fi
  if ! id=$("${command[@]}"); then
    [ ${#submitted[@]} -eq 0 ] || scancel "${submitted[@]}"
    fail "sbatch refused stage $stage; the stages before it are cancelled again" "fix $name: '${!name:-}'"
  fi
  id=${id%%;*}    # after it stands the cluster's name, if there are several
  submitted+=("$id")
  echo "$stage $id${after:+ after ${after//:/ }}"
  after=$id
}

run_here() {
  local stage=$1 code
  local -n arguments=$stage
  local command=(bash "$root/slurm/$stage.sh" "${arguments[@]}")
  if [ -n "$dry" ]; then
    print_command "${command[@]}"
    return
  fi
  echo "== $stage"
  run_and_forward_signals "${command[@]}" && code=0 || code=$?
  [ "$code" -ne 0 ] || return 0
  echo "error: stage $stage ended with exit code $code" >&2
  while [ "${stages[0]}" != "$stage" ]; do stages=("${stages[@]:1}"); done
  echo "hint: to resume there, give the same command with STAGES='${stages[*]}'" >&2
  exit "$code"
}

print_command() {
  printf '%q' "$1"
  printf ' %q' "${@:2}"
  echo
}

# Called from within a job, sbatch would pass that job's own variables on to the stages.
without_own_job() {
  local name
  for name in "${!SLURM_@}"; do
    [ "$name" = SLURM_CONF ] || unset "$name"
  done
}

submitted=()
main "$@"
