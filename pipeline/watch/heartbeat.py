"""The ranks watch each other: a rank that died, is silent or is stuck ends the job, and is named with its last step.

A thread of every rank reports its rank's step and phase to rank 0 each second, and rank 0 reports its own to the
others. A connection that breaks means that a rank died; one without a message for `watch.hang_s`, that the process was
stopped or the node was lost; a report that the main thread has not moved for that long, that the rank is stuck. The
rank that finds one of these sends the verdict to all, and all exit with LOST, because no collective can finish without
one of them. Time is counted in seconds that the watcher was awake, so that a job that was suspended as a whole blames
no rank when it wakes.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from base.errors import UserError
from pipeline.engine.distributed import COLLECTIVES_IN, World
from pipeline.exit_codes import LOST
from pipeline.run import logs
from pipeline.watch import launcher
from pipeline.watch.heartbeat_wire import Client, Process, Server, Transport

log = logging.getLogger(__name__)

BEAT_S = 1.0
CERTAIN_BEATS = 3
"""Wait this many beats for all reports before a rank is declared stuck, because the others block on it."""
FAREWELL_S = 10.0
"""How long the others wait for a rank that exits with its own error, which it has printed, to end the job itself."""
NETWORK_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


@dataclass(kw_only=True)
class Peer:
    """The last report of a rank."""

    rank: int
    process: Process | None = None
    step: int = 0
    """Number of steps that it has finished."""
    doing: str = "starting"
    num_phases: int = 0
    """Phases reported in this step; the rank with fewer is behind."""
    stuck_s: float = 0.0
    """Seconds since its last phase or step."""
    waiting: bool = False
    """Whether its main thread is in a collective."""
    silent_s: float = 0.0
    """Seconds since its last message."""
    connected: bool = True
    left: str | None = None
    """Set when it exits by itself: empty if it is done, else its error."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why the job ends."""

    message: str
    hint: str
    culprits: list[int]
    kill: list[int] = field(default_factory=list)
    """Culprits that cannot exit by themselves."""
    stacks: bool = False
    """Whether the stacks of the main threads help to find the cause."""


class Heartbeat:
    """This rank's heartbeat, and its watch over the others. Use as a context manager, on all ranks (a collective).

    Args:
        hang_s: seconds that a rank may make no progress or send no report; 0 checks only for ranks that died.
    """

    def __init__(self, world: World, hang_s: float) -> None:
        self.world, self.hang_s = world, hang_s
        self._own = Peer(rank=world.rank, process=Process.own())
        self._peers: dict[int, Peer] = {}
        self._transport: Transport | None = None
        self._stop = threading.Event()
        self._main = threading.main_thread().ident
        self._seen = (-1, -1)
        self._error = ""
        self._failed = False
        """Set when a collective of this rank has failed: the job is over, and only the cause is still unknown."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def phase(self, doing: str, *, step: int | None = None) -> None:
        """Report the phase that this rank enters and, if given, the number of steps that it has finished."""
        own = self._own
        own.doing, own.num_phases = doing, own.num_phases + 1
        if step is not None and step != own.step:
            own.step, own.num_phases = step, 0

    def progress(self, what: str, done: int, total: int) -> None:
        """`phase` for long work that counts (pipeline/tasks/retrieval/evaluation.py)."""
        self.phase(f"{what}, {done} of {total}")

    def __enter__(self) -> Heartbeat:
        if self.world.size > 1:
            server = Server(os.environ.get("MASTER_ADDR", "127.0.0.1")) if self.world.is_main else None
            address = self.world.broadcast_object(server.address if server else None)
            assert address is not None
            try:
                self._transport = server or Client(address, self.world.rank)
            except OSError as error:
                log.warning("no connection to rank 0 for heartbeats: %s. A rank that dies is noticed late", error)
            if not self.world.is_main and self._transport is not None:
                self._peers[0] = Peer(rank=0)
        if self.world.size == 1 or self._transport is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, UserError) and self._peers and of_the_network(error):
            # A collective failed, most likely because a rank died. The watcher finds out which, and exits.
            self._failed = True
            self._thread.join(FAREWELL_S)
        self._error = "" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
        self._stop.set()
        if self._transport is not None:
            self._transport.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._beat()
            if (verdict := self._listen(began + BEAT_S)) is not None:
                self._leave(verdict)
        self._send({"left": self._error})  # the connection itself ends with the process

    def _beat(self) -> None:
        own = self._own
        now = own.step, own.num_phases
        own.stuck_s = own.stuck_s + BEAT_S if now == self._seen else 0.0
        self._seen = now
        own.waiting = own.stuck_s > 0 and waits_for_others(_frame_of(self._main))
        for peer in self._peers.values():
            peer.silent_s += BEAT_S
        self._send({"beat": asdict(own)})

    def _send(self, message: dict[str, Any]) -> None:
        for connection in self._transport.connections.values() if self._transport else ():
            connection.send(message)

    def _listen(self, until: float) -> Verdict | None:
        """Read the others' messages until the next beat is due, or until one shows that the job must end."""
        while True:
            for rank, messages in (self._transport.receive() if self._transport else {}).items():
                peer = self._peers.setdefault(rank, Peer(rank=rank))
                for message in messages:
                    if "verdict" in message:
                        return Verdict(**message["verdict"])
                    self._hear(peer, message)
            for rank, peer in self._peers.items():
                assert self._transport is not None
                peer.connected = self._transport.connections[rank].open
            if (verdict := self._judge()) is not None:
                return verdict
            left_s = until - time.monotonic()
            if left_s <= 0 or self._stop.is_set():
                return None
            self._transport.wait(left_s) if self._transport else self._stop.wait(left_s)

    def _hear(self, peer: Peer, message: dict[str, Any]) -> None:
        peer.silent_s = 0.0
        if "left" in message:
            peer.left = message["left"]
        if beat := message.get("beat"):
            peer.process = Process(**beat["process"])
            for name in ("step", "doing", "num_phases", "stuck_s", "waiting"):
                setattr(peer, name, beat[name])

    def _judge(self) -> Verdict | None:
        """The verdict on a rank that keeps the job from continuing, if there is one."""
        # No rank finishes a step without the others: ranks whose reports are late have finished the same steps.
        finished = max(peer.step for peer in (self._own, *self._peers.values()))
        for peer in self._peers.values():
            if not peer.connected and peer.left is None:
                return _gone(peer, finished)
            if not peer.connected and peer.left and (self._failed or peer.silent_s > FAREWELL_S):
                return _left(peer, finished)
            if self.hang_s and peer.left is None and peer.connected and peer.silent_s > self.hang_s:
                return _silent(peer, finished)
        if not self.hang_s or 0 in self._peers:
            return None  # rank 0 judges: its thread runs even if it is stuck, and its silence was checked above
        everyone = [self._own, *(peer for peer in self._peers.values() if peer.left is None)]
        if max(peer.stuck_s for peer in everyone) <= self.hang_s + CERTAIN_BEATS * BEAT_S:
            return None
        return _stuck([peer for peer in everyone if peer.stuck_s > self.hang_s / 2], self.hang_s)

    def _leave(self, verdict: Verdict) -> NoReturn:
        """Send the verdict to all ranks, log it, and end this process, even if its main thread is blocked in a call."""
        launcher.leave_if_lost()  # the others then exit for that reason, and no rank is to blame
        # A stuck main thread may hold a lock that is needed below, such as that of a log whose disk does not respond.
        last_resort = threading.Timer(FAREWELL_S, os._exit, (LOST,))
        last_resort.daemon = True
        last_resort.start()
        rank, to_blame = self.world.rank, self.world.rank in verdict.culprits
        self._send({"verdict": asdict(verdict)})
        level = logging.ERROR if to_blame else logging.INFO
        log.log(level, "%s", verdict.message)
        if verdict.stacks:
            stack = "".join(traceback.format_stack(_frame_of(self._main)))
            log.log(level, "the main thread of rank %d is in\n%s", rank, stack)
        if self.world.is_main or 0 in verdict.culprits:
            logs.print_error(verdict.message, verdict.hint, rank=rank)
        for number in verdict.kill:
            process = self._peers[number].process if number in self._peers else None
            if process is not None and process.is_here():
                os.kill(process.pid, signal.SIGKILL)
                log.info("killed rank %d, process %d", number, process.pid)
        if isinstance(self._transport, Server):  # let the others exit first, so that they receive all messages
            deadline = time.monotonic() + 3 * BEAT_S
            while (
                any(connection.open for connection in self._transport.connections.values())
                and time.monotonic() < deadline
            ):
                self._send({})
                self._transport.wait(BEAT_S / 10)
                self._transport.receive()
        logging.shutdown()
        os._exit(LOST)


HINT_RESUME = "the same command resumes from the last checkpoint"


def _where(peer: Peer, finished: int) -> str:
    return f"last step {finished:,}" + (f", {peer.doing}" if peer.step == finished else "")


def _host(peer: Peer) -> str:
    return f" on {peer.process.host}" if peer.process is not None else ""


def _gone(peer: Peer, finished: int) -> Verdict:
    return Verdict(
        message=f"rank {peer.rank}{_host(peer)} is gone ({_where(peer, finished)}): it ended without an error",
        hint=f"it was killed, most often for memory: see its log and the node's (dmesg, sacct); {HINT_RESUME}",
        culprits=[peer.rank],
    )


def _left(peer: Peer, finished: int) -> Verdict:
    return Verdict(
        message=f"rank {peer.rank}{_host(peer)} has left ({_where(peer, finished)}): {peer.left}",
        hint=f"see its log; {HINT_RESUME}",
        culprits=[peer.rank],
    )


def _silent(peer: Peer, finished: int) -> Verdict:
    return Verdict(
        message=f"rank {peer.rank}{_host(peer)} has been silent for {peer.silent_s:.0f} s ({_where(peer, finished)})",
        hint=f"its process is stopped, or its node or network is lost; watch.hang_s is the limit; {HINT_RESUME}",
        culprits=[peer.rank],
        kill=[peer.rank],
    )


def _stuck(stuck: list[Peer], hang_s: float) -> Verdict:
    """The verdict on stuck ranks: those that do not wait for others, and of these the ones furthest behind."""
    candidates = [peer for peer in stuck if not peer.waiting] or stuck
    behind = min((peer.step, peer.num_phases) for peer in candidates)
    culprits = [peer for peer in candidates if (peer.step, peer.num_phases) == behind]
    named = " and ".join(f"rank {peer.rank}{_host(peer)}" for peer in culprits)
    return Verdict(
        message=f"{named} {'have' if len(culprits) > 1 else 'has'} been stuck for more than {hang_s:g} s "
        f"({_where(culprits[0], culprits[0].step)})",
        hint="logs/JOB/rank_R.log of the run folder shows where its main thread was; "
        f"watch.hang_s is the limit; {HINT_RESUME}",
        culprits=[peer.rank for peer in culprits],
        stacks=True,
    )


def of_the_network(error: BaseException) -> bool:
    """Whether an exception comes from a collective that failed because of another rank."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in NETWORK_WORDS)


def waits_for_others(frame: FrameType | None) -> bool:
    """Whether the stack goes through a collective."""
    while frame is not None:
        if any(folder in frame.f_code.co_filename for folder in COLLECTIVES_IN):
            return True
        frame = frame.f_back
    return False


def _frame_of(thread: int | None) -> FrameType | None:
    return sys._current_frames().get(thread) if thread is not None else None
