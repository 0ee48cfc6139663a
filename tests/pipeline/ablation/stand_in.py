"""Stands in for training and evaluation where the ablation around them is tested: `--launch "python THIS FOLDER"`.

Leaves what the commands leave, in milliseconds. FOLDER/log has a line for each start; FOLDER/fails and FOLDER/stops
name rows, seeds or commands that fail or stop, FOLDER/samples a number of samples for some.
"""

import json
import sys
from pathlib import Path

folder, words = Path(sys.argv[1]), sys.argv[4:]  # -m pipeline
assert sys.argv[2:4] == ["-m", "pipeline"]
flags = {word.partition("=")[0]: word.partition("=")[2] for word in words if "=" in word}
run_dir = Path(flags["--run-dir"]) if "--run-dir" in flags else Path(words[words.index("--out") + 1])
row, seed = run_dir.parent.parts[-2:]
with (folder / "log").open("a") as log:
    log.write(" ".join(words) + "\n")


def named(file: str) -> str:
    """The value after `:` of the first line of a file that occurs in `row seed command`."""
    path = folder / file
    for entry in path.read_text().splitlines() if path.exists() else []:
        what, _, value = entry.partition(":")
        if what in f"{row} {seed} {words[0]}":
            return value or "yes"
    return ""


if named("stops"):
    sys.exit(75)
if named("fails"):
    sys.exit(2)
if words[0] == "evaluate":
    number = ["mlm_itm", "itc", "hard_negatives", "distill_itc", "distill_mlm", "distill_downstream"].index(row)
    score = 10.0 * number + int(seed)
    recalls = {f"{way}_recall_at_{at}": score + at / 10 for way in ("i2t", "t2i") for at in (1, 5, 10)}
    result = (
        recalls | {"num_images": 9, "num_texts": 9, "k_test": 4}
        if words[1] == "retrieval"
        else {"accuracy": score, "pointing": score + 0.5}
    )
    run_dir.write_text(json.dumps(result))
else:
    run_dir.mkdir(parents=True)
    metrics = {"step": 5, "data/samples_seen": int(named("samples") or 40), "optim/skipped_steps": 0.0}
    (run_dir / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    (run_dir / "data.json").write_text(json.dumps({"fingerprint": "f" * 16}))
    model = run_dir.parent / ("model" if words[0] == "pretrain" else f"{run_dir.name}_model")
    model.mkdir()
    (model / "config.json").write_text("{}")
