# shellcheck shell=bash
# What the scripts of this folder share: where the project is, errors, ranks, signals, requeueing. Sourced, not run.
#
# Sets: root, the project's folder; python, its interpreter (PYTHON, else .venv/bin/python, else python3); job, the
# job's name for scontrol, empty without Slurm. Reads slurm/site.sh first if it exists (site.example.sh).

STOPPED_AND_SAVED=75         # exit code of work that stopped as requested, and saved
# shellcheck disable=SC2034     # for the scripts
RANK_LOST=69                 # of ranks that lost another one, with its node or by itself (pipeline/watch/heartbeat.py)
STARTS_WITHOUT_PROGRESS=2    # requeueing ends after this many starts in a row that changed nothing

fail() {
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 2
}

# The comment at the top of the script that was started.
print_head() {
  sed -n '2,${ /^#/!q; s/^# \{0,1\}//; p; }' "${BASH_SOURCE[-1]}"
}

# Prints: the value of flag $1 among the words $3..., as `--flag value` or `--flag=value`, the last one; else $2.
flag_value() {
  local name=$1 value=$2
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      "$name") value=${2:-$value} ;;
      "$name"=*) value=${1#*=} ;;
    esac
    shift
  done
  echo "$value"
}

# Prints: the run folder of RECIPE and flags: --run-dir, else RUN_DIR, else the one named after the recipe.
run_dir_of() {
  flag_value --run-dir "${RUN_DIR:-runs/$(basename "${1%.y*ml}")}" "$@"
}

# Prints: what a wheel is made for, of interpreter $1: cpython-3.11 linux-x86_64.
platform_of() {
  "$1" -c 'import platform, sys, sysconfig
print(f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]} {sysconfig.get_platform()}")'
}

# Prints: a field of `scontrol show job` that is one word; lines that hold a path are skipped.
job_field() {
  scontrol show job "$job" | sed -n "/^ *\(Command\|WorkDir\|Std[A-Z][a-z]*\)=/d; s/^\(.* \)\{0,1\}$1=\([^ ]*\).*/\2/p"
}

# Prints: the file that the job's output goes to: Slurm's name for it, or, where scontrol is missing or leaves a pattern
# like %x in the name, the file that this script writes to.
job_log() {
  local log
  log=$(scontrol show job "$job" 2> /dev/null | sed -n 's/^ *StdOut=//p' | head -n 1) || :
  [ -e "$log" ] || log=$(readlink /proc/$$/fd/1) || :
  [ ! -f "$log" ] || echo "$log"
}

now_utc() {
  date -u +%Y-%m-%dT%H:%M:%SZ
}

# Runs a command on all ranks; $1 is a new folder, on storage they share, for their exit codes. Sets `code`: 0 when all
# are done, 75 when they stopped and saved, the code of the rank that crashed first, or the launcher's own.
run_ranks() {
  local launcher=() command=("${AS_RANK[@]}" "$@")
  exits=$1
  if [ -n "$job" ]; then launcher_of_slurm; else launcher_of_workstation; fi
  remove_exits
  mkdir -p "$exits"
  run_and_forward_signals "${launcher[@]}" "${command[@]}" && code=0 || code=$?
  [ "$code" -ne 137 ] || [ -n "$job" ] || [ "$num_ranks" -eq 1 ] || wait_for_ranks
  code=$(code_of_ranks "$code")
  remove_exits
}

# Removes the ranks' exit codes and their folder; what else lies there stays, with the folder.
remove_exits() {
  [ -d "$exits" ] && [ ! -L "$exits" ] || return 0
  find "$exits" -maxdepth 1 -type f -name '[0-9]*' -delete
  rmdir "$exits" 2> /dev/null || true
}

# A rank writes its exit code to a file, and exits with 0 when it stopped and saved: torchrun and srun kill the others as
# soon as one rank exits with anything else, and the others may still be closing their files. The launchers' own exit
# codes mean little: torchrun exits with 1 after any signal, srun with the highest code, which is that of the ranks it
# killed. The traps keep the shell alive until its rank has ended. 138 is a rank that got SIGUSR1 while starting up,
# before its handler was set: nothing is lost, and STARTS_WITHOUT_PROGRESS bounds how often that may happen.
# ALBEF_LAUNCHERS lists the processes whose death makes the rank leave (pipeline/watch/launcher.py): `script`, where it runs on
# the same machine, the launcher and this shell.
# shellcheck disable=SC2016  # expanded in the rank
AS_RANK=(bash -c 'trap : USR1 TERM INT
  export ALBEF_LAUNCHERS="$(readlink /proc/self/ns/pid) $ALBEF_LAUNCHERS $PPID $$"
  "${@:2}" && code=0 || code=$?
  [ "$code" -ne 138 ] || code=75
  echo "$code" > "$1/${RANK:-${SLURM_PROCID:-0}}"
  [ "$code" -ne 75 ] || code=0
  exit "$code"' rank)

# torchrun was killed with -9: its ranks notice, and leave within seconds.
wait_for_ranks() {
  local seconds
  for ((seconds = 0; seconds < 15; seconds++)); do
    [ "$(find "$exits" -type f | wc -l)" -lt "$num_ranks" ] || return 0
    sleep 1
  done
}

# Prints: 75 if the ranks stopped and saved, the code of the rank that crashed first, else the launcher's own ($1).
code_of_ranks() {
  local rank code stopped=0 crash=""
  while read -r rank; do    # oldest first
    code=$(< "$exits/$rank")
    case $code in
      0) ;;
      "$STOPPED_AND_SAVED") stopped=$((stopped + 1)) ;;
      *) crash=${crash:-$code} ;;
    esac
  done < <(ls -tr "$exits")
  # srun's 0 needs no count: over a network the files of the other nodes may be seen late
  if [ -z "$crash" ] && [ "$stopped" -gt 0 ] && { [ "$1" -eq 0 ] || [ "$stopped" -eq "$num_ranks" ]; }; then
    echo "$STOPPED_AND_SAVED"
  else
    echo "${crash:-$1}"
  fi
}

# One task a GPU, all the node's GPUs visible to each; pipeline/engine/distributed.py reads the ranks from SLURM_PROCID.
launcher_of_slurm() {
  local tasks=${SLURM_NTASKS_PER_NODE:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
  if [ "$gpus" -gt 0 ] && [ "$gpus" -ne "$tasks" ]; then
    # shellcheck disable=SC2154    # script: of the file that sourced this one
    fail "$gpus GPUs a node, but $tasks tasks" \
      "sbatch --gpus-per-node=$gpus --ntasks-per-node=$gpus slurm/$(basename "$script") ..."
  fi
  [ "${SLURM_HET_SIZE:-1}" -le 1 ] || fail "a heterogeneous job of $SLURM_HET_SIZE components, whose tasks srun counts apart" \
    "submit one component: every node with the same number of GPUs and tasks"
  MASTER_ADDR=$(first_host "$SLURM_JOB_NODELIST")
  if ! getent hosts "$MASTER_ADDR" > /dev/null; then    # a node name that is no host name: ask Slurm for its IP address
    MASTER_ADDR=$(scontrol show node -o "$MASTER_ADDR" 2> /dev/null | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p') || :
    MASTER_ADDR=${MASTER_ADDR:-$(hostname)}    # a batch script runs on the first node
  fi
  MASTER_PORT=$(free_port $((20000 + SLURM_JOB_ID % 10000)))    # two jobs on one node differ
  export MASTER_ADDR MASTER_PORT NCCL_DEBUG=${NCCL_DEBUG:-WARN} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  echo "NODES ${SLURM_JOB_NODELIST} x $tasks tasks, meeting at $MASTER_ADDR:$MASTER_PORT"
  num_ranks=$((tasks * SLURM_JOB_NUM_NODES))
  launcher=(srun --ntasks-per-node="$tasks" --ntasks="$num_ranks" --kill-on-bad-exit=1)
  # srun no longer takes this from sbatch by itself (since Slurm 22.05)
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || launcher+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
  export ALBEF_LAUNCHERS=""    # this script is on the first node only, and the job ends with it
}

# Prints: the first host of Slurm's compressed list $1: gpu03 of gpu[03-05,9],cpu1; as first_host of pipeline/engine/distributed.py.
first_host() {
  sed -E 's/^(([^][,]|\[[^]]*\])*).*/\1/; s/\[([^],:-]*)[^]]*\]/\1/g' <<< "$1"
}

# Prints: the first port from $1 on that nobody listens at, here: a batch script runs on the first node of its job.
free_port() {
  "$python" -c 'import socket, sys
for port in range(int(sys.argv[1]), 32768):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            continue
    print(port)
    break' "$1"
}

launcher_of_workstation() {
  local gpus=0
  ! command -v nvidia-smi > /dev/null || gpus=$(nvidia-smi --list-gpus 2> /dev/null | grep -c '^GPU') || gpus=0
  num_ranks=${NPROC:-$((gpus > 0 ? gpus : 1))}
  export ALBEF_LAUNCHERS=$$
  if [ "$num_ranks" -gt 1 ]; then
    # By default torchrun dies of SIGUSR1 and leaves its ranks behind, and kills ranks 30 s after a signal.
    local signals=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
    launcher=("$python" -m torch.distributed.run --standalone --nproc-per-node="$num_ranks" --signals-to-handle "$signals"
      --no-python)
    command=("${command[@]//\$/\$\$}")    # torchrun replaces $$ and ${local_rank}, in paths as well
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  fi
}

# In the background and in its own process group, so that a signal to this script, or Ctrl-C, arrives exactly once.
# Sets `last_signal`; USR1 is passed on as USR1_AS, for commands that know only TERM.
run_and_forward_signals() {
  local child code name as
  # shellcheck disable=SC2034  # for the caller
  last_signal=""
  set -m
  "$@" < /dev/null &
  child=$!
  set +m
  for name in USR1 TERM INT HUP; do
    case $name in USR1) as=${USR1_AS:-USR1} ;; HUP) as=TERM ;; *) as=$name ;; esac
    # shellcheck disable=SC2064  # the child's number is known now
    trap "last_signal=$name; kill -s $as -- -$child 2> /dev/null || :" "$name"
  done
  while :; do    # a trapped signal ends `wait`, not the child
    wait "$child" && code=0 || code=$?
    kill -0 "$child" 2> /dev/null || break
  done
  return "$code"
}

# Appends a line for this start to file $1; its last word is `$2=$3`, the present state of $2 (`latest`, the checkpoint).
note_start() {
  printf '%s job=%s restart=%s %s=%s\n' "$(now_utc)" "${job:-none}" "${SLURM_RESTART_COUNT:-0}" "$2" "$3" >> "$1"
}

# Puts this job into the queue again and exits, unless that would undo a cancellation or lead nowhere. Returns when the
# job is not requeued but nothing is wrong.
#   $1 the file of note_start   $2 the state now, as noted there   $3 what that state is, in words   $4 a stop file, or ""
requeue() {
  local now=$2 stuck state
  stuck=$(tac "$1" | awk -v now="$now" '{ sub(/^[^=]*=/, "", $NF) } $NF != now { exit } { same++ } END { print same + 0 }')
  state=$(job_field JobState) || :
  if [ -z "$state" ]; then
    echo "error: the job is not requeued: scontrol does not answer on this node" >&2
    echo "hint: submit the same command again and it resumes from $now" >&2
  elif [ "$state" != RUNNING ]; then
    if [ "$(job_field Restarts)" -gt "${SLURM_RESTART_COUNT:-0}" ]; then
      echo "Slurm requeues the job by itself, to resume from $now"
    else    # asking Slurm for it would undo a scancel
      echo "not requeued: the job was cancelled or ran past its time limit; submit again to resume from $now"
    fi
  elif [ -n "$4" ] && [ -e "$4" ]; then
    echo "not requeued: stopped by hand with $4; submit again to resume from $now"
  elif [ "$stuck" -ge "$STARTS_WITHOUT_PROGRESS" ]; then
    echo "error: not requeued: the last $stuck starts made no progress, $3 is still $now" >&2
    echo "hint: is --time long enough to start up, make progress and save before the signal? see $1" >&2
    exit 1
  elif scontrol requeue "$job"; then
    echo "requeued job $job to resume from $now"
    exit 0
  else
    echo "error: Slurm did not requeue job $job" >&2
    echo "hint: submit the same command again and it resumes from $now" >&2
  fi
}

job=${SLURM_JOB_ID:-}
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -e "$root/pipeline/train.py" ] || fail "the project is not beside $root/slurm" \
  "submit the scripts of slurm/ where they lie, in the project's folder"
# shellcheck source=/dev/null
[ ! -e "$root/slurm/site.sh" ] || . "$root/slurm/site.sh"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-$root/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
