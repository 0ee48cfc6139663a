"""RandomAugment against the original's OpenCV operations: which, how strong, how often, and pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.data.randaugment import APPLY_PROBABILITY, OPERATIONS, SIGNED, apply_ops, choose_ops, magnitude
from pipeline.data.seeds import Draws
from tests.parity.goldens import load

# Largest difference allowed per pixel, and on average, in 8-bit steps. Tables and whole-pixel shifts are exact. For the
# others OpenCV rounds source positions to 1/32 pixel, so each of the two axes moves by up to 1/64 pixel: over noise,
# where neighbours differ by up to 255, that is 255/64 = 4 steps an axis, plus one for rounding; a shear moves one axis.
EXACT = (0, 0.0)
ONE_AXIS = (5, 1.0)
TWO_AXES = (9, 1.0)
ALLOWED = dict.fromkeys(OPERATIONS, EXACT) | {"ShearX": ONE_AXIS, "ShearY": ONE_AXIS, "Rotate": TWO_AXES}

LOW_DRAWS = 0.5
"""Below it the original keeps the sign of shears and shifts, and turns the angle's."""


def pixels(key: str) -> np.ndarray:
    return load("randaugment")[key].numpy()


def recorded_images() -> list[str]:
    return [key.removeprefix("img/") for key in load("randaugment").tensors if key.startswith("img/")]


def recorded_cases() -> list[dict]:
    return load("randaugment").info["cases"]


def signed(name: str, level: float, draw: float) -> float:
    """The magnitude the original gives an operation for its uniform draw (the convention is checked below)."""
    negative = (draw < LOW_DRAWS) if name == "Rotate" else (draw > LOW_DRAWS)
    return magnitude(name, level) * (-1 if name in SIGNED and negative else 1)


def test_operations_and_magnitudes_are_the_recorded_ones():
    """The ten names in order; at each recorded level the recorded strength, with its sign where it has one."""
    assert list(OPERATIONS) == load("randaugment").info["ops_order"]
    for case in recorded_cases():
        ours = signed(case["op"], case["level"], case["uniform_draw"])
        recorded = case["args"][0] if case["args"] else 0.0
        assert ours == pytest.approx(recorded, abs=1e-12), f"{case['op']} at level {case['level']}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_the_recorded_ones(name):
    """Every recorded image of this operation, as the original computes it, overflow included."""
    largest, mean = ALLOWED[name]
    for case in (case for case in recorded_cases() if case["op"] == name):
        strength = case["args"][0] if case["args"] else 0.0
        for image in recorded_images():
            ours = apply_ops(Image.fromarray(pixels(f"img/{image}")), [(name, strength)], overflow=True)
            recorded = pixels(f"out/{name}/{case['variant']}/{image}")
            error = np.abs(np.asarray(ours).astype(int) - recorded)
            assert error.max() <= largest, f"{name} {strength} on {image}: off by {error.max()}, allowed {largest}"
            assert error.mean() <= mean, f"{name} {strength} on {image}: off by {error.mean():.2f} on average"


def test_chains_are_the_recorded_ones():
    """The original's two draws, replayed from NumPy's seeded generator: operations, whether applied, signs."""
    chains = sorted((key for key in load("randaugment").tensors if key.startswith("e2e/")), key=lambda k: int(k[4:]))
    assert chains
    for key in chains:
        random = np.random.RandomState(int(key[4:]))
        ops = []
        for name in random.choice(list(OPERATIONS), 2):
            if random.random_sample() > APPLY_PROBABILITY:
                continue
            ops.append((str(name), signed(name, 7, random.random_sample() if name in SIGNED else 0.0)))
        ours = np.asarray(apply_ops(Image.fromarray(pixels("img/smooth")), ops, overflow=True)).astype(int)
        error = np.abs(ours - pixels(key))
        # Two warps add their errors; a contrast operation after a warp stretches them, here by less than four.
        assert error.max() <= 2 * TWO_AXES[0], f"{key} {ops}: off by {error.max()}"
        assert error.mean() <= 2 * TWO_AXES[1], f"{key} {ops}: off by {error.mean():.2f} on average"


def test_without_the_overflow_only_what_overflowed_differs():
    """The repaired default equals the recording wherever the original's bytes did not wrap."""
    for case in recorded_cases():
        strength = case["args"][0] if case["args"] else 0.0
        for name in recorded_images():
            image = Image.fromarray(pixels(f"img/{name}"))
            faithful = np.asarray(apply_ops(image, [(case["op"], strength)], overflow=True)).astype(int)
            repaired = np.asarray(apply_ops(image, [(case["op"], strength)])).astype(int)
            differ = faithful != repaired
            if case["op"] == "AutoContrast":
                # The darkest value, 0 in a repaired channel, comes out white in the original unless it was 0 before.
                for channel in range(3):
                    before = np.asarray(image)[..., channel]
                    white = before.min() > 0 and before.max() > before.min()
                    assert differ[..., channel].any() == white
                    assert not white or (faithful[..., channel] == 255).all()
            elif case["op"] == "Sharpness":
                # A wrapped byte is off by 256 from a value outside 0..255, whose repaired value is the end it left by.
                assert np.isin(repaired[differ], (0, 255)).all()
            else:
                assert not differ.any()


def test_draws_have_the_originals_probabilities():
    """20,000 images: names uniform with replacement, each applied half of the time, signs even, within five sigmas."""
    draws = Draws(0, "test")
    num_images, num_ops = 20_000, 2
    chosen = [choose_ops(draws, num_ops=num_ops, level=7) for _ in range(num_images)]
    flat = [op for ops in chosen for op in ops]

    def close(count: int, out_of: int, probability: float) -> bool:
        return abs(count - out_of * probability) < 5 * (out_of * probability * (1 - probability)) ** 0.5

    for applied, probability in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert close(sum(len(ops) == applied for ops in chosen), num_images, probability)
    for name in OPERATIONS:
        strengths = [strength for drawn, strength in flat if drawn == name]
        assert close(len(strengths), num_images * num_ops, APPLY_PROBABILITY / len(OPERATIONS)), name
        if name in SIGNED:
            assert close(sum(strength < 0 for strength in strengths), len(strengths), 0.5), name
        assert {abs(strength) for strength in strengths} == {magnitude(name, 7)}
    pairs = [ops for ops in chosen if len(ops) == 2]
    assert close(sum(ops[0][0] == ops[1][0] for ops in pairs), len(pairs), 1 / len(OPERATIONS))
