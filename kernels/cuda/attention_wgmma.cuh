/// \file attention_wgmma.cuh
/// Attention on wgmma, which only GPUs of compute capability 9.0 have: see attention_wgmma.cu.
#ifndef PHX_KERNELS_CUDA_ATTENTION_WGMMA_CUH
#define PHX_KERNELS_CUDA_ATTENTION_WGMMA_CUH

#include "kernels/cuda/attention.cuh"

/// Sequences with several rows, as phx_cuda_attention_mma; for what fits_mma in attention.cu.
/// Positions of a sequence's rows never fall from row to row. Sets *done to false, with nothing
/// launched, where the GPU or the build has no wgmma, or the shape is not for it.
enum phx_status PHX_ATTENTION(phx_cuda_attention_wgmma)(struct phx_stream *stream,
                                                        const struct attention_args &args,
                                                        const struct phx_kv_pages &kv,
                                                        int32_t max_seq_rows, bool *done);

#endif
