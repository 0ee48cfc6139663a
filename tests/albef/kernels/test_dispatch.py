"""Which version of a kernel runs: by device, type and what is installed; one warning where a GPU gets plain torch."""

from __future__ import annotations

import logging

import pytest
import torch

from albef.kernels import dispatch
from albef.kernels.dispatch import use_triton


class OnCuda:
    """As much of a tensor on a GPU as the choice reads."""

    device = torch.device("cuda")

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HAS_TRITON", True)
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    monkeypatch.setattr(dispatch, "_warned", set())


def test_auto_takes_triton_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a CPU, not on meta tensors, and not in the interpreter, which is far slower than plain torch."""
    assert use_triton("itc", "auto", OnCuda())  # type: ignore[arg-type]
    monkeypatch.setattr(dispatch, "INTERPRETED", True)
    for device in ("cpu", "meta"):
        assert not use_triton("itc", "auto", torch.zeros(1, device=device))
    assert not use_triton("itc", "torch", OnCuda())  # type: ignore[arg-type]


def test_auto_warns_once_when_a_gpu_gets_plain_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason; another kernel has a warning of its own, and a CPU, which never has Triton, none."""
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        assert not use_triton("itc", "auto", OnCuda(torch.float64))  # type: ignore[arg-type]
    assert not use_triton("mlm", "auto", OnCuda(), unsuited="7 is odd")  # type: ignore[arg-type]
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    assert not use_triton("average", "auto", OnCuda())  # type: ignore[arg-type]
    assert not use_triton("other", "auto", torch.zeros(1))
    reasons = ["the inputs are float64", "7 is odd", "Triton is not installed"]
    expected = [f"{name} runs in plain torch on this device" for name in ("itc", "mlm", "average")]
    assert caplog.messages == [f"{what}: {why}" for what, why in zip(expected, reasons, strict=True)]


def test_triton_where_it_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never replaced in silence; under the interpreter it runs on the CPU."""
    with pytest.raises(RuntimeError, match="itc: impl='triton' cannot run: the inputs are on the device 'cpu'"):
        use_triton("itc", "triton", torch.zeros(1))
    monkeypatch.setattr(dispatch, "INTERPRETED", True)
    assert use_triton("itc", "triton", torch.zeros(1))
    with pytest.raises(RuntimeError, match="float64"):
        use_triton("itc", "triton", torch.zeros(1, dtype=torch.float64))
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    with pytest.raises(RuntimeError, match="not installed"):
        use_triton("itc", "triton", torch.zeros(1))
    with pytest.raises(ValueError, match="impl is 'fast'"):
        use_triton("itc", "fast", torch.zeros(1))  # type: ignore[arg-type]
