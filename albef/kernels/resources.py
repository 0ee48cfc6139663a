"""Registers, spills and shared memory of every Triton kernel, compiled for GPUs that this machine need not have."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One kernel as a module launches it."""

    name: str
    kernel: Any
    """The function under `@triton.jit`."""
    signature: Mapping[str, str]
    """Argument -> Triton's type (`*fp32`, `i32`), those of `constants` left out."""
    constants: Mapping[str, Any]
    """The `tl.constexpr` arguments; None for a pointer that is not given."""
    divisible: tuple[str, ...] = ()
    """Arguments that are multiples of 16 besides the pointers, as a launch finds out."""
    options: Mapping[str, int] = field(default_factory=dict)
    """num_warps and num_stages."""


@dataclass(frozen=True)
class Resources:
    """What the compiler gave a kernel."""

    registers: int
    """Of a thread."""
    spills: int
    """Bytes a thread writes to local memory for want of registers."""
    shared: int
    """Bytes of a block; 166,912 is the most on sm_80, 232,448 on sm_90."""


def configurations() -> list[Configuration]:
    """What every `*_triton.py` of this folder launches at the sizes of the recipes: its own `configurations()`."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*_triton.py"))
    return [one for name in names for one in importlib.import_module(f"albef.kernels.{name}").configurations()]


def compiled(one: Configuration, capability: int) -> Resources:
    """Compile with Triton and its own assembler.

    Args:
        capability: 80 for A100, 90 for H100 and H200.

    Raises:
        RuntimeError: Triton is interpreted in this process (TRITON_INTERPRET=1), so it compiles nothing.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(one.kernel, triton.runtime.JITFunction):
        raise RuntimeError(f"{one.name}: kernels are interpreted in this process; unset TRITON_INTERPRET")
    names = one.kernel.arg_names
    types = {name: "constexpr" if name in one.constants else one.signature[name] for name in names}
    aligned = [name for name in names if types[name].startswith("*") or name in one.divisible]
    source = ASTSource(
        fn=one.kernel,
        signature=types,
        constexprs={name: one.constants[name] for name in names if name in one.constants},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(one.options))
    registers, spills = _usage(binary.asm["cubin"])
    return Resources(registers, spills, binary.metadata.shared)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of spills, as `cuobjdump` reads them from the binary: STACK is where spills lie."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    assert found, done.stdout
    return int(found[1]), int(found[2])
