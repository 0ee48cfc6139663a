"""`benchmarks.step_profile`: times of a trace written out by hand, and of a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step_profile
from benchmarks.step_profile import kind_of, summary
from pipeline.run.step_trace import StepTrace


def span(cat: str, name: str, ts: float, dur: float, **args: object) -> dict[str, Any]:
    """An event as torch's profiler writes it, in microseconds."""
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 1, "args": args}


def test_times_of_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps: kernels count to the part that launched them, though they run later; two at once are busy once."""
    events = [
        span("user_annotation", "ProfilerStep#3", 0, 1_000),
        span("user_annotation", "ProfilerStep#4", 1_000, 1_000),
        span("user_annotation", "forward", 0, 400),
        span("user_annotation", "optimizer", 1_500, 100),
        span("cuda_runtime", "cudaLaunchKernel", 10, 5, correlation=1),
        span("cuda_driver", "cuLaunchKernel", 20, 5, correlation=2),
        span("cuda_runtime", "cudaLaunchKernel", 1_550, 5, correlation=3),
        span("kernel", "nvjet_tst_128x256_64x4_coopA_TNT", 600, 300, correlation=1),
        span("kernel", "lse_kernel", 800, 200, correlation=2),
        span("kernel", "multi_tensor_apply_kernel<FusedAdamMathFunctor>", 2_000, 400, correlation=3),
        span("cpu_op", "aten::mm", 5, 300),
        {"ph": "i", "cat": "", "name": "a mark", "ts": 1},
    ]
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"traceEvents": events}))
    assert step_profile.main(["--trace", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["step_ms"], found["device_ms"]) == (2, 1.2, 0.45)
    assert (found["idle_ms"], found["idle_pct"]) == (0.8, 66.7)  # 600-1,000 and 2,000-2,400 of 2,400 are busy
    assert found["by_part_ms"] == {"forward": 0.25, "optimizer": 0.2}
    assert found["by_kind_ms"] == {"optimizer": 0.2, "matrix products": 0.15, "ours": 0.1}
    assert found["top"][1] == {
        "name": "nvjet_tst_128x256_64x4_coopA_TNT",
        "kind": "matrix products",
        "ms": 0.15,
        "calls": 0.5,
    }


def test_an_operation_of_a_cpu_counts_without_those_it_calls() -> None:
    """linear calls addmm, which calls copy_: 100 us in all, of which 20 are linear's own."""
    events = [
        span("user_annotation", "ProfilerStep#0", 0, 150),
        span("user_annotation", "forward", 0, 150),
        span("cpu_op", "aten::linear", 10, 100),
        span("cpu_op", "aten::addmm", 20, 80),
        span("cpu_op", "aten::copy_", 30, 30),
        span("cpu_op", "aten::gelu", 120, 10),
    ]
    found = summary(events)
    own = {row["name"]: row["ms"] for row in found["top"]}
    assert own == {"aten::linear": 0.02, "aten::addmm": 0.05, "aten::copy_": 0.03, "aten::gelu": 0.01}
    assert (found["device_ms"], found["idle_ms"]) == (0.11, 0.04)


def test_a_trace_that_torch_writes_is_read(tmp_path: Path) -> None:
    """Three products of one size in two recorded steps; nearly all of the time is theirs."""
    trace, matrix = StepTrace(range(1, 3), tmp_path), torch.ones(700, 700)
    for step in range(4):
        phase = trace.begin(step, lambda part: None)
        phase("backward")
        for _ in range(3):
            matrix @ matrix
        trace.end(step)
    [file] = tmp_path.iterdir()
    found = summary(step_profile.read_events(file))
    assert found["steps"] == 2 and found["top"][0]["name"] == "aten::mm" and found["top"][0]["calls"] == 3
    assert list(found["by_part_ms"]) == ["backward"] and found["by_kind_pct"]["matrix products"] > 90


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_128x64_nn>", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", "norms and softmax"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "elementwise"),
        ("void at::native::fused_dropout_kernel_vec<float>", "dropout"),
        ("Memcpy HtoD (Pinned -> Device)", "copies and casts"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "collectives"),
        ("triton_per_fused_add_native_layer_norm_3", "compiled"),
        ("move_kernel", "ours"),
    ],
)
def test_kernels_are_known_by_name(name: str, kind: str) -> None:
    """Names of the form that torch and NVIDIA's libraries give; no trace of a GPU of ours has been read yet."""
    assert kind_of(name) == kind
