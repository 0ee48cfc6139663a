"""Fused kernels: losses and averages that never write their large intermediate matrices to memory.

Each is one function with `impl="auto" | "triton" | "torch"`. `torch` is a plain, chunked version that runs anywhere;
`triton` is for CUDA devices; `auto` chooses. The files that import Triton, `*_triton` and `mlm_kernels`, are imported
at their first use, because it may be missing. See docs/kernels.md.

dispatch               chooses between Triton and plain torch
itc                    the contrastive loss with soft targets
itc_triton             its passes over the candidates
mlm                    masked language modelling against hard and soft targets
mlm_kernels            the kernels of its passes over the vocabulary
mlm_triton             their launches
moving_average         the teacher's weights: fp32 average and its copy, in one pass
moving_average_triton  its launch over a table of all parameters
opaque                 Triton launches as single operations of a compiled graph
packs                  tensors as packs that stay in the cache
resources              registers, spills and shared memory of the compiled kernels
"""
