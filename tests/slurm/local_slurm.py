"""A real Slurm on this machine alone: munged, slurmctld and one slurmd a node, all on 127.0.0.1, without systemd.

Needs Debian's slurm-wlm and munge. As root each slurmd lives in its own mount namespace with an /etc/hosts that
knows the node names; the machine's own file is not touched. Without root the names stay unknown, and scripts must ask
Slurm for a node's IP address. The daemons are children of this process and end with it, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare")

CONFIG = """\
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
# ports follow from job numbers, and another Slurm of these tests may run on this machine
FirstJobId={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its credential has expired: 120 s unless set otherwise
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# nodes may claim more processors than the machine has
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
KillWait=10
MinJobAge=3600
JobRequeue=1
NodeName=node[1-{nodes}] NodeAddr=127.0.0.1 NodeHostname=localhost Port=[{first}-{last}] CPUs={cpus} RealMemory=16000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=00:10:00 State=UP
"""


def search_path() -> str:
    """PATH with the folders where Debian puts the daemons."""
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def missing_programs() -> list[str]:
    """The programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]


class LocalSlurm:
    """Daemons in `folder`; a context manager that ends them, and every job, on leaving."""

    def __init__(self, folder: Path, *, nodes: int = 1, cpus: int = 8) -> None:
        self.folder = folder
        self.nodes = nodes
        self.cpus = cpus
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.slurmds: dict[int, subprocess.Popen[bytes]] = {}
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        self.environment = {**clean, "PATH": search_path(), "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> LocalSlurm:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def command(
        self, *words: str, cwd: Path | None = None, check: bool = True, settings: Mapping[str, str] | None = None
    ) -> str:
        """What a command prints, with `settings` in its environment.

        Raises: AssertionError with its errors when it fails and `check`.
        """
        environment = self.environment | dict(settings or {})
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *words: str | Path, cwd: Path, **settings: str) -> int:
        """`sbatch` with these words and settings, in that folder. Returns: the job id."""
        return int(self.command("sbatch", "--parsable", *map(str, words), cwd=cwd, settings=settings).split(";")[0])

    def job(self, job_id: int | str) -> dict[str, str]:
        """The fields of `scontrol show job`; of an array's task, `ID_TASK`."""
        return dict(re.findall(r"(\w+)=(\S*)", self.command("scontrol", "show", "job", "-o", str(job_id))))

    def wait_for(self, job_id: int | str, *states: str, timeout_s: float = 60.0) -> dict[str, str]:
        """Poll until the job is in one of the states; `sbatch --wait` polls too, but at growing intervals."""
        deadline = time.monotonic() + timeout_s
        while (fields := self.job(job_id))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {job_id} did not reach {states} in {timeout_s:g} s: {fields}"
            time.sleep(0.2)
        return fields

    def pull_the_plug(self, number: int) -> None:
        """Node `number` is gone in an instant: its slurmd and every process of its jobs, by SIGKILL."""
        self.slurmds[number].kill()
        self.slurmds[number].wait()
        mine = {f"SLURM_CONF={self.folder / 'slurm.conf'}".encode(), f"SLURMD_NODENAME=node{number}".encode()}
        for process in Path("/proc").iterdir():
            try:
                if not mine <= set((process / "environ").read_bytes().split(b"\0")):
                    continue
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                stepd = Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd"
            except (OSError, ValueError, IndexError):
                continue
            for victim in [parent, int(process.name)] if stepd else [int(process.name)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    def plug_in(self, number: int) -> None:
        """Boot a node whose plug was pulled, and wait until Slurm has it back."""
        self._start_node(number)
        self.wait_for_node(f"node{number}")

    def wait_for_node(self, node: str) -> None:
        """Wait until a node that was down takes jobs again, resuming it where ReturnToService does not."""

        def back() -> bool:
            state = self.command("sinfo", "-h", "-N", "-n", node, "-o", "%T", check=False).strip()
            if state.startswith("down"):
                self.command("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            return state in ("idle", "mixed", "allocated")

        _wait_until(back, f"{node} did not come back", self.folder)

    def _start(self) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        port = _free_ports(self.nodes + 1)
        user = getpass.getuser()
        text = CONFIG.format(
            folder=folder,
            port=port,
            first=port + 1,
            last=port + self.nodes,
            user=user,
            nodes=self.nodes,
            cpus=self.cpus,
        )
        (folder / "slurm.conf").write_text(text)
        (folder / "state").mkdir()
        secret = folder / "munge"
        secret.mkdir(mode=0o700)
        (secret / "key").touch(mode=0o600)
        (secret / "key").write_bytes(os.urandom(128))
        options = {"key": secret / "key", "seed": secret / "seed", "log": secret / "log", "pid": folder / "munged.pid"}
        flags = [f"--{name}-file={path}" for name, path in options.items()]
        self._daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.sock", *flags)
        _wait_until((folder / "munge.sock").exists, "munged made no socket", folder)
        self._daemon("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for number in range(1, self.nodes + 1):
            self._start_node(number)
        _wait_until(lambda: self._idle_nodes() == self.nodes, "not every node is idle", folder)

    def _start_node(self, number: int) -> None:
        (self.folder / f"spool.node{number}").mkdir(exist_ok=True)
        words = ("slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", f"node{number}")
        self.slurmds[number] = self._daemon(*self._own_hosts(), *words)

    def _idle_nodes(self) -> int:
        return len(self.command("sinfo", "-h", "-N", "-t", "idle", check=False).splitlines())

    def _daemon(self, *words: str) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        daemon = subprocess.Popen(
            words, env=self.environment, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=_end_with_parent
        )
        self.daemons.append(daemon)
        return daemon

    def _own_hosts(self) -> list[str]:
        """The words that put a command where /etc/hosts knows the nodes; none without root."""
        if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            return []
        names = "".join(f"127.0.0.1 node{number}\n" for number in range(1, self.nodes + 1))
        hosts = self.folder / "hosts"
        hosts.write_text(Path("/etc/hosts").read_text() + "\n" + names)
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(hosts)]

    def _stop(self) -> None:
        """Cancel what runs, then signal all daemons at once: each takes about two seconds to leave."""
        if len(self.daemons) > 1:
            self.command("scancel", "--user", getpass.getuser(), check=False)
            deadline = time.monotonic() + 15
            while self.command("squeue", "-h", "-t", "R,CG", check=False).strip() and time.monotonic() < deadline:
                time.sleep(0.1)
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _end_with_parent() -> None:
    """Run in the child before it becomes a daemon: prctl(PR_SET_PDEATHSIG, SIGTERM)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _wait_until(condition: Callable[[], bool], complaint: str, folder: Path, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise AssertionError(f"Slurm did not come up: {complaint}\n{logs}")
        time.sleep(0.1)


def _free_ports(count: int) -> int:
    """The first of `count` free neighbouring ports on loopback, below those the kernel gives to clients."""
    for _ in range(1_000):
        first = random.randrange(15_000, 19_000)
        sockets: list[socket.socket] = []
        try:
            for port in range(first, first + count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise AssertionError("no free ports")
