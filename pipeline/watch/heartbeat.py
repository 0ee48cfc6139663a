"""The ranks watch each other: one that has died, fell silent or is stuck ends the job, and is named with its last step.

A thread of every rank tells rank 0 each second where its rank is, and rank 0 tells the others. A connection that
breaks is a rank that died; one that brings nothing for `watch.hang_s` is a process that was stopped, or a node that is
lost; a rank that says of itself that its main thread has stood for so long is stuck. Whoever finds that tells all, and
all leave with LOST: no collective can go on without one of them. Time is counted in the watcher's own seconds awake, so
that a job that was suspended as a whole does not blame anyone when it wakes.
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

from albef.errors import UserError
from pipeline.engine.distributed import World
from pipeline.exit_codes import LOST
from pipeline.run import logs
from pipeline.watch import launcher
from pipeline.watch.heartbeat_wire import Hub, Process, Spoke, Wire

log = logging.getLogger(__name__)

BEAT_S = 1.0
CERTAIN_BEATS = 3
"""So long the watcher waits for everyone's say before it calls a rank stuck: the others stand still because of it."""
FAREWELL_S = 10.0
"""A rank that left with an error of its own has told what it is; the others give it this long to end the job itself."""
NETWORK_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
WAITING_IN = (f"torch{os.sep}distributed{os.sep}", f"deepspeed{os.sep}comm{os.sep}")
"""A main thread whose stack goes through these waits for other ranks."""


@dataclass(kw_only=True)
class Peer:
    """What is known of a rank."""

    rank: int
    process: Process | None = None
    step: int = 0
    """Steps it has finished."""
    doing: str = "starting"
    marks: int = 0
    """How often it has said what it does since: of two ranks in the same step, the one with fewer is behind."""
    stuck_s: float = 0.0
    """Since it last did."""
    waiting: bool = False
    """Whether its main thread is in a collective."""
    silent_s: float = 0.0
    """Since it was last heard of."""
    connected: bool = True
    left: str | None = None
    """Set when it leaves by itself: empty when it is done, else why."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why the job ends."""

    message: str
    hint: str
    culprits: list[int]
    kill: list[int] = field(default_factory=list)
    """Culprits that cannot end by themselves."""
    stacks: bool = False
    """Whether what the main threads are in tells something."""


class Heart:
    """This rank's heartbeat, and its watch over the others. Use as a context manager, on all ranks (a collective).

    Args:
        hang_s: how long a rank may stand still or be silent; 0 watches for deaths only.
    """

    def __init__(self, world: World, hang_s: float) -> None:
        self.world, self.hang_s = world, hang_s
        self._own = Peer(rank=world.rank, process=Process.own())
        self._peers: dict[int, Peer] = {}
        self._wire: Wire | None = None
        self._stop = threading.Event()
        self._main = threading.main_thread().ident
        self._seen = (-1, -1)
        self._error = ""
        self._failed = False
        """Set when a collective of this rank has failed: the job is over, and what is still to be learned is why."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def at(self, doing: str, *, step: int | None = None) -> None:
        """Say what this rank begins to do, and, when it is so, that `step` steps are finished."""
        own = self._own
        own.doing, own.marks = doing, own.marks + 1
        if step is not None and step != own.step:
            own.step, own.marks = step, 0

    def progress(self, what: str, done: int, total: int) -> None:
        """`at` for long work that counts (pipeline/tasks/retrieval/evaluation.py)."""
        self.at(f"{what}, {done} of {total}")

    def __enter__(self) -> Heart:
        if self.world.size > 1:
            hub = Hub(os.environ.get("MASTER_ADDR", "127.0.0.1")) if self.world.is_main else None
            address = self.world.broadcast_object(hub.address if hub else None)
            assert address is not None
            try:
                self._wire = hub or Spoke(address, self.world.rank)
            except OSError as error:
                log.warning("no connection to rank 0 for heartbeats: %s. A rank that dies is noticed late", error)
            if not self.world.is_main and self._wire is not None:
                self._peers[0] = Peer(rank=0)
        if self.world.size == 1 or self._wire is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, UserError) and self._peers and of_the_network(error):
            # A collective failed, most likely for want of a rank. The watch knows which in a moment, and leaves.
            self._failed = True
            self._thread.join(FAREWELL_S)
        self._error = "" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
        self._stop.set()
        if self._wire is not None:
            self._wire.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._beat()
            if (verdict := self._listen(began + BEAT_S)) is not None:
                self._leave(verdict)
        self._say({"left": self._error})  # the connection itself ends with the process

    def _beat(self) -> None:
        own = self._own
        now = own.step, own.marks
        own.stuck_s = own.stuck_s + BEAT_S if now == self._seen else 0.0
        self._seen = now
        own.waiting = own.stuck_s > 0 and waits_for_others(_frame_of(self._main))
        for peer in self._peers.values():
            peer.silent_s += BEAT_S
        self._say({"beat": asdict(own)})

    def _say(self, message: dict[str, Any]) -> None:
        for line in self._wire.lines.values() if self._wire else ():
            line.send(message)

    def _listen(self, until: float) -> Verdict | None:
        """Take in what the others say until the next beat is due, or something is the matter."""
        while True:
            for rank, messages in (self._wire.receive() if self._wire else {}).items():
                peer = self._peers.setdefault(rank, Peer(rank=rank))
                for message in messages:
                    if "verdict" in message:
                        return Verdict(**message["verdict"])
                    self._hear(peer, message)
            for rank, peer in self._peers.items():
                assert self._wire is not None
                peer.connected = self._wire.lines[rank].open
            if (verdict := self._judge()) is not None:
                return verdict
            left_s = until - time.monotonic()
            if left_s <= 0 or self._stop.is_set():
                return None
            self._wire.wait(left_s) if self._wire else self._stop.wait(left_s)

    def _hear(self, peer: Peer, message: dict[str, Any]) -> None:
        peer.silent_s = 0.0
        if "left" in message:
            peer.left = message["left"]
        if beat := message.get("beat"):
            peer.process = Process(**beat["process"])
            for name in ("step", "doing", "marks", "stuck_s", "waiting"):
                setattr(peer, name, beat[name])

    def _judge(self) -> Verdict | None:
        """What there is to say against anyone."""
        # No rank finishes a step without the others: what one has finished, those who lag in telling have as well.
        finished = max(peer.step for peer in (self._own, *self._peers.values()))
        for peer in self._peers.values():
            if not peer.connected and peer.left is None:
                return _gone(peer, finished)
            if not peer.connected and peer.left and (self._failed or peer.silent_s > FAREWELL_S):
                return _left(peer, finished)
            if self.hang_s and peer.left is None and peer.connected and peer.silent_s > self.hang_s:
                return _silent(peer, finished)
        if not self.hang_s or 0 in self._peers:
            return None  # rank 0 judges: were it stuck itself, its thread is not; were it silent, that was found above
        everyone = [self._own, *(peer for peer in self._peers.values() if peer.left is None)]
        if max(peer.stuck_s for peer in everyone) <= self.hang_s + CERTAIN_BEATS * BEAT_S:
            return None
        return _stuck([peer for peer in everyone if peer.stuck_s > self.hang_s / 2], self.hang_s)

    def _leave(self, verdict: Verdict) -> NoReturn:
        """Tell all, tell why, and end this process, whatever its main thread is in."""
        launcher.leave_if_lost()  # then the others leave for that reason, and are not to blame
        # A main thread that is stuck may hold what is needed below: a lock of the log, whose disk does not answer.
        last_resort = threading.Timer(FAREWELL_S, os._exit, (LOST,))
        last_resort.daemon = True
        last_resort.start()
        rank, to_blame = self.world.rank, self.world.rank in verdict.culprits
        self._say({"verdict": asdict(verdict)})
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
        if isinstance(self._wire, Hub):  # the others first, so that what they have to say is not cut short
            deadline = time.monotonic() + 3 * BEAT_S
            while any(line.open for line in self._wire.lines.values()) and time.monotonic() < deadline:
                self._say({})
                self._wire.wait(BEAT_S / 10)
                self._wire.receive()
        logging.shutdown()
        os._exit(LOST)


HINT_RESUME = "the same command goes on from the last checkpoint"


def _where(peer: Peer, finished: int) -> str:
    return f"last step {finished:,}" + (f", {peer.doing}" if peer.step == finished else "")


def _host(peer: Peer) -> str:
    return f" on {peer.process.host}" if peer.process is not None else ""


def _gone(peer: Peer, finished: int) -> Verdict:
    return Verdict(
        message=f"rank {peer.rank}{_host(peer)} is gone ({_where(peer, finished)}): it ended without a word",
        hint=f"it was killed, most often for memory: see its log and the node's (dmesg, sacct); {HINT_RESUME}",
        culprits=[peer.rank],
    )


def _left(peer: Peer, finished: int) -> Verdict:
    return Verdict(
        message=f"rank {peer.rank}{_host(peer)} has left ({_where(peer, finished)}): {peer.left}",
        hint=f"its log tells more; {HINT_RESUME}",
        culprits=[peer.rank],
    )


def _silent(peer: Peer, finished: int) -> Verdict:
    return Verdict(
        message=f"rank {peer.rank}{_host(peer)} has been silent for {peer.silent_s:.0f} s ({_where(peer, finished)})",
        hint="its process is stopped, or its node or network is lost; "
        f"watch.hang_s sets how long that is borne; {HINT_RESUME}",
        culprits=[peer.rank],
        kill=[peer.rank],
    )


def _stuck(stuck: list[Peer], hang_s: float) -> Verdict:
    """Of the ranks that stand still: whoever does not wait for others, and of those whoever is furthest behind."""
    candidates = [peer for peer in stuck if not peer.waiting] or stuck
    behind = min((peer.step, peer.marks) for peer in candidates)
    culprits = [peer for peer in candidates if (peer.step, peer.marks) == behind]
    named = " and ".join(f"rank {peer.rank}{_host(peer)}" for peer in culprits)
    return Verdict(
        message=f"{named} {'have' if len(culprits) > 1 else 'has'} been stuck for more than {hang_s:g} s "
        f"({_where(culprits[0], culprits[0].step)})",
        hint="logs/JOB/rank_R.log of the run folder shows where its main thread was; "
        f"watch.hang_s sets how long that is borne; {HINT_RESUME}",
        culprits=[peer.rank for peer in culprits],
        stacks=True,
    )


def of_the_network(error: BaseException) -> bool:
    """Whether an exception is a collective's, which failed because of another rank."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in NETWORK_WORDS)


def waits_for_others(frame: FrameType | None) -> bool:
    """Whether the stack goes through a collective."""
    while frame is not None:
        if any(folder in frame.f_code.co_filename for folder in WAITING_IN):
            return True
        frame = frame.f_back
    return False


def _frame_of(thread: int | None) -> FrameType | None:
    return sys._current_frames().get(thread) if thread is not None else None
