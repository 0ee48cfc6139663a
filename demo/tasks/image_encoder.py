"""An image encoder that can name the things of a world's pictures, to start ALBEF's from, as the paper's from DeiT.

The paper's image encoder starts from one that was trained to classify the 1.2 million pictures of ImageNet. Without
such a start a small one learns colours from captions in minutes, and shapes hardly at all (docs/world.md).

    python -m demo.tasks.image_encoder WORLD OUT.pth
"""

# B pictures, S side in pixels, K kinds of things (colour and shape), D image width

from __future__ import annotations

import io
import json
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.inputs.preprocess import preprocess_image
from albef.network.vision import ImageEncoder
from base.errors import UserError
from base.flag_types import count, positive
from base.parser import Parser
from samples.quote import printable

BATCH = 32
SHAPE = AlbefConfig(
    image_size=48, patch_size=16, vision_width=128, vision_depth=4, vision_heads=2, text_heads=2, text_width=128
)
"""The image encoder of the recipe `world`: a patch is a cell of the scenes' grid."""
LR = 1e-3
WARMUP_STEPS = 20


class Things:
    """The pictures of one split, and which kinds of things each shows.

    Attributes:
        images: (N, 3, S, S), normalised as ALBEF's.
        shown: (N, K), 1 where the picture shows a thing of that colour and shape.
    """

    def __init__(self, world: Path, split: str, side: int, kinds: list[tuple[str, str]] | None = None) -> None:
        scenes = [json.loads(line) for line in (world / "scenes.jsonl").read_text().splitlines()]
        scenes = [scene for scene in scenes if scene["image"].startswith(f"{split}/")]
        found = [{(thing["color"], thing["shape"]) for thing in scene["things"]} for scene in scenes]
        self.kinds = kinds or sorted(set().union(*found))
        self.shown = torch.tensor([[float(kind in of_one) for kind in self.kinds] for of_one in found])
        self.images = torch.empty(len(scenes), 3, side, side)
        with zipfile.ZipFile(world / "images.zip") as pictures:
            for row, scene in enumerate(scenes):
                picture = Image.open(io.BytesIO(pictures.read(scene["image"])))
                self.images[row] = preprocess_image(picture.convert("RGB"), side)

    def __len__(self) -> int:
        return len(self.images)


def train(things: Things, config: AlbefConfig, *, steps: int, seed: int) -> tuple[ImageEncoder, nn.Linear]:
    """An encoder and a linear classifier of its class token, trained to say which kinds of things a picture shows.

    Binary cross-entropy, AdamW, a cosine from 1e-3 to zero.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, head = ImageEncoder(config), nn.Linear(config.vision_width, len(things.kinds))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], weight_decay=0.02)
    for step in range(steps):
        rate = LR * min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(things), (BATCH,), generator=generator)
        logits = head(encoder(things.images[rows])[:, 0])
        loss = F.binary_cross_entropy_with_logits(logits, things.shown[rows], reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder, head


@torch.no_grad()
def named(encoder: ImageEncoder, head: nn.Linear, things: Things) -> float:
    """The share of the pictures' kinds that are among the picture's most probable ones."""
    logits: Tensor = torch.cat([head(encoder(images)[:, 0]) for images in things.images.split(100)])
    right = 0.0
    for scores, shown in zip(logits, things.shown, strict=True):
        right += shown[scores.topk(int(shown.sum())).indices].sum().item()
    return right / things.shown.sum().item()


def make(world: Path, out: Path, config: AlbefConfig, *, steps: int, seed: int) -> dict[str, Any]:
    """Train on the world's training pictures and write the encoder, a timm state dict, to `out`.

    Returns: what was done, with `named`, the share of things that it names in the validation pictures.
    """
    things = Things(world, "train", config.image_size)
    encoder, head = train(things, config, steps=steps, seed=seed)
    score = named(encoder, head, Things(world, "val", config.image_size, things.kinds))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    torch.save(encoder.state_dict(), partial)
    os.replace(partial, out)
    return {"pictures": len(things), "kinds": len(things.kinds), "steps": steps, "batch": BATCH, "named": score}


def main(argv: list[str] | None = None) -> int:
    """Train, write, print the score; returns the exit code: 0, or 2 for what the user can fix."""
    parser = Parser(prog="python -m demo.tasks.image_encoder", description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, metavar="WORLD", help="folder of `python -m demo.world`")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write, .pth; a recipe's init.image takes it")
    parser.add_argument("--steps", type=positive, default=1200, metavar="N", help="of 32 pictures")
    parser.add_argument("--seed", type=count, default=0)
    try:
        args = parser.parse_args(argv)
        done = make(args.world, args.out, SHAPE, steps=args.steps, seed=args.seed)
    except UserError as error:
        print(f"error: {printable(error.message)}\nhint: {printable(error.hint)}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
