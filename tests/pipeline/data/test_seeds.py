"""Named seeds: stable, unambiguous, well spread."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.data.seeds import Draws, derive, generator, splitmix64, uniforms


def test_a_seed_is_the_documented_hash():
    """Each part is its type letter, the length of its text in eight little-endian bytes, and the text."""
    encoded = b"i" + bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"-7" + b"s" + bytes([4, 0, 0, 0, 0, 0, 0, 0]) + b"mask"
    expected = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little") // 2
    assert derive(-7, "mask") == expected
    assert 0 <= expected < 2**63


def test_names_that_look_alike_are_different_seeds():
    """Neither joining the parts nor mixing text with numbers makes two names one."""
    names: list[tuple[int | str, ...]] = [("1", "23"), ("12", "3"), ("123",), (123,), (1, 23), (12, 3)]
    names += [("a", "b"), ("ab",), ("ab", ""), ("", "ab")]
    assert len({derive(*name) for name in names}) == len(names)


def test_only_ints_and_strings_name_a_seed():
    """True would hash as 1, 0.5 would depend on how floats are written."""
    for part in (True, 0.5, None, b"x"):
        with pytest.raises(TypeError):
            derive(1, part)  # type: ignore[arg-type]


def test_seeds_do_not_depend_on_the_process():
    """Another process, with another salt for Python's own hash, derives the same seed and draws the same numbers."""
    code = (
        "from pipeline.data.seeds import derive, generator; import torch;"
        "print(derive(3, 'crop', 2, 'käy'), torch.rand(2, generator=generator(3, 'x')).tolist())"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    here = f"{derive(3, 'crop', 2, 'käy')} {torch.rand(2, generator=generator(3, 'x')).tolist()}"
    assert there.stdout.strip() == here


def test_uniforms_are_the_top_bits_of_splitmix64():
    """Against the published first outputs for state 0; a row of keys gives each key's own draws."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(0, 3).tolist() == published
    assert uniforms(0, 3).tolist() == [(word >> 11) / 2**53 for word in published]
    rows = uniforms(np.array([7, 0], dtype=np.uint64), 3)
    assert rows.shape == (2, 3) and rows[1].tolist() == uniforms(0, 3).tolist()


def test_draws_are_the_generators_uniforms_in_order():
    """Draws hands out one generator's numbers one by one, across its blocks; integers are their floor."""
    draws = Draws(5, "augment")
    expected = torch.rand(64, generator=(source := generator(5, "augment")), dtype=torch.float64).tolist()
    expected += torch.rand(64, generator=source, dtype=torch.float64).tolist()
    assert [draws.uniform() for _ in range(100)] == expected[:100]
    assert draws.uniform(2, 4) == 2 + 2 * expected[100]
    assert draws.integer(10) == int(10 * expected[101])
