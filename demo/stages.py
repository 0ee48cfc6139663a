"""The stages of the demo, in order. Each is a command of the project; one that is done is not done again."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from base.errors import UserError
from demo.pictures import PictureArchive
from demo.processes import run_child
from demo.results import read_json
from demo.server import PictureServer
from demo.settings import Layout, Record
from demo.url_lists import SPLITS, chosen, write_list

PRETRAIN_SCRIPT = Path(__file__).resolve().parent.parent / "slurm" / "pretrain.sh"
NUM_RANKS = 2
SHARD_SIZE = {"train": 1_000, "val": 500, "test": 1_000}


class StageFailed(UserError):
    """A command of the demo ended with an error, which it has printed itself.

    Args:
        exit_code: the command's, which becomes the demo's.
    """

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class Stages:
    """Runs the stages of one run folder and keeps the record of them."""

    def __init__(self, layout: Layout, record: Record) -> None:
        self.layout, self.record = layout, record

    def download(self, wanted_port: int) -> None:
        """Serve the pictures and download each list into verified shards."""
        splits = []
        for split in SPLITS:
            if self._done(f"download {split}", self.layout.manifest(split)):
                print(f"-- download {split}: done before", flush=True)
            else:
                splits.append(split)
        if not splits:
            return
        archive = PictureArchive()
        with self._serve(archive, wanted_port, splits) as server:
            self._write_lists(server.port)
            for split in splits:
                self._run(
                    f"download {split}",
                    [
                        *(sys.executable, "-m", "data_prep", "download"),
                        *("--urls", str(self.layout.url_list(split))),
                        *("--out", str(self.layout.shards(split))),
                        *("--source", "demo"),
                        "--allow-private-addresses",  # the pictures are served on loopback
                        *("--shard-size", str(SHARD_SIZE[split])),
                    ],
                )
        archive.close()

    def pretrain(self) -> None:
        """Two CPU ranks, or one a GPU, through the script that Slurm would run."""
        asked = self.record.settings
        flags = {
            "seed": str(asked.seed),
            "data.manifests": str(self.layout.shards("train")),
            "validation.manifest": str(self.layout.shards("val")),
        }
        if asked.steps is not None:
            flags |= {
                "max_steps": str(asked.steps),
                "schedule.warmup_steps": str(asked.steps // 10),
                "checkpoint.save_every": str(max(1, asked.steps // 3)),
                "validation.every_steps": str(max(1, asked.steps // 3)),
            }
        environment = {
            "RUN_DIR": str(self.layout.root),
            "PYTHON": sys.executable,
            **_ranks_and_threads(),
        }
        if "NPROC" not in environment:
            flags["deepspeed.config"] = "zero1_bf16"
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        self._run(
            "pretrain", ["bash", str(PRETRAIN_SCRIPT), "demo", *words], self.layout.metrics, environment=environment
        )

    def export(self) -> None:
        """Export the checkpoint as a model folder."""
        self._run(
            "export",
            [sys.executable, "-m", "pipeline", "export", str(self.layout.root), "--out", str(self.layout.export)],
            self.layout.export / "config.json",
        )

    def evaluate(self) -> None:
        """Retrieval on the held-out pictures, with the exported model and with fresh weights of the same shape."""
        self._call("fresh weights", self._make_untrained, self.layout.untrained / "config.json")
        for model, folder in (("untrained", self.layout.untrained), ("trained", self.layout.export)):
            self._run(
                f"evaluate {model}",
                [
                    *(sys.executable, "-m", "pipeline", "evaluate", "retrieval"),
                    *("--model", str(folder), "--data", str(self.layout.shards("test"))),
                    *("--captions", "first", "--k-test", "16", "--out", str(self.layout.retrieval(model))),
                ],
                self.layout.retrieval(model),
            )

    def report(self) -> None:
        """The page."""
        from demo.report import write_report

        self._call("report", lambda: write_report(self.layout, self.record), self.layout.report)

    def results(self) -> dict[str, dict[str, float]]:
        """Retrieval metrics of the untrained and the trained model."""
        return {model: read_json(self.layout.retrieval(model)) for model in ("untrained", "trained")}

    def _serve(self, archive: PictureArchive, wanted_port: int, splits: Sequence[str]) -> PictureServer:
        """On the port that the lists name. If another program has taken it, unfinished downloads start over."""
        if self.record.port:
            try:
                return PictureServer(archive, self.record.port)
            except OSError as error:
                print(f"port {self.record.port}: {error.strerror}; unfinished downloads start over", flush=True)
                for split in splits:
                    shutil.rmtree(self.layout.shards(split), ignore_errors=True)
                    self.layout.url_list(split).unlink(missing_ok=True)
        try:
            server = PictureServer(archive, wanted_port)
        except OSError as error:
            raise StageFailed(f"port {wanted_port}: {error.strerror}", "give another --port, or 0 for any", 2) from None
        self.record.port = server.port
        self.record.save(self.layout.record)
        return server

    def _write_lists(self, port: int) -> None:
        for split in SPLITS:
            if not self.layout.url_list(split).exists():
                write_list(
                    self.layout.url_list(split),
                    chosen(split, self.record.settings.pictures),
                    port=port,
                    first_caption_only=split == "test",
                    broken=split == "train",
                )

    def _make_untrained(self) -> None:
        import torch

        from albef.model import AlbefForPretraining
        from albef.pretrained import Albef

        trained = Albef.from_pretrained(self.layout.export, device="cpu")
        torch.manual_seed(self.record.settings.seed)
        fresh = AlbefForPretraining(trained.config)
        Albef(fresh, trained.tokenizer, max_text_tokens=trained.max_text_tokens).save_pretrained(self.layout.untrained)

    def _done(self, name: str, *outputs: Path) -> bool:
        return name in self.record.stages and all(path.exists() for path in outputs)

    def _run(self, name: str, command: list[str], *outputs: Path, environment: dict[str, str] | None = None) -> None:
        def run() -> None:
            code = run_child(command, run_dir=self.layout.root, environment=environment)
            if code == 75:
                raise StageFailed(f"{name} stopped by request, and saved", "the same command resumes from there", 75)
            if code:
                raise StageFailed(
                    f"{name} ended with exit code {code}",
                    "what it printed above says why; the same command resumes from here",
                    code if code in (2, 130) else 1,
                )

        self._call(name, run, *outputs, command=" ".join(_short(word) for word in command))

    def _call(self, name: str, work: Callable[[], None], *outputs: Path, command: str = "") -> None:
        """Do a stage unless it is done: in the record, with its outputs there."""
        if self._done(name, *outputs):
            print(f"-- {name}: done before", flush=True)
            return
        print(f"-- {name}" + (f": {command}" if command else ""), flush=True)
        began = time.monotonic()
        work()
        seconds = time.monotonic() - began
        self.record.stages[name] = {"seconds": round(seconds, 1), "command": command}
        self.record.save(self.layout.record)
        print(f"-- {name} took {seconds:.0f} s", flush=True)


def _ranks_and_threads() -> dict[str, str]:
    """Two ranks on a CPU; on a machine with GPUs the script takes one rank for each by itself."""
    import torch

    if torch.cuda.is_available():
        return {}
    cores = len(os.sched_getaffinity(0))
    return {"NPROC": str(NUM_RANKS), "OMP_NUM_THREADS": str(max(1, min(4, cores // NUM_RANKS)))}


def _short(word: str) -> str:
    """A word of a command as a person would type it."""
    if word == sys.executable:
        return "python"
    return os.path.relpath(word) if word.startswith("/") else word
