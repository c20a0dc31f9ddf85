/// \file experts.h
/// Mixtures of experts on a GPU: experts.c decides, experts.cu routes and adds up, experts_gemv.cu
/// and experts_gemm.cu multiply.
#ifndef PHX_KERNELS_CUDA_EXPERTS_H
#define PHX_KERNELS_CUDA_EXPERTS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/// What a product by expert works on. Pair p is of row p / k and has expert ids[p]; it reads row
/// p / per_row of x. Weights as in struct phx_cuda_product; x may lie askew.
struct phx_cuda_experts {
    enum phx_dtype act, weight_dtype; ///< act: of x, parts, add and out
    const void *x;                    ///< [n_pairs / per_row, in], x_stride
    const void *weight;               ///< [n_local n_out (gated: 2 n_out), in], stride `pitch`
    struct phx_cuda_planes planes;    ///< in its place where it is quantised: only for blocks.h
    void *out;                        ///< [n_pairs, n_out], out_stride
    const int32_t *ids;               ///< [n_pairs]
    const float *weights;             ///< [n_pairs]
    int32_t *starts, *pairs;          ///< the notes: [n_local + 1], [n_pairs]
    int32_t first, n_local, k, per_row;
    int64_t n_pairs, in, lead, pitch, n_out, x_stride, out_stride;
    bool straight; ///< rows of x lie at multiples of 16 bytes and are `pitch` wide, lead is 0
    enum phx_activation activation;
};

/// The end of a sum over a row's pairs: out[n] [n_pairs / k, n_out] from products or from parts.
struct phx_cuda_expert_sums {
    const void *parts, *add; ///< [n_pairs, n_out]; add [n_pairs / k, n_out] or NULL
    const float *add_gate;
    void *out;
    int64_t parts_stride, add_stride, gate_stride, out_stride;
};

/// Rows of a step up to which each pair reads its expert's weights for itself; no notes are made.
enum { PHX_CUDA_FEW_EXPERT_ROWS = 8 };

/// starts and pairs from ids: pairs by expert, in their order within one.
enum phx_status phx_cuda_group_pairs(struct phx_stream *stream, const struct phx_cuda_experts *e);
/// out[p] = act(gate x) * (up x), each pair for itself.
enum phx_status phx_cuda_experts_gated_few(struct phx_stream *stream,
                                           const struct phx_cuda_experts *e);
/// Sums over the pairs of products W x; `parts` is not used.
enum phx_status phx_cuda_experts_sum_few(struct phx_stream *stream,
                                         const struct phx_cuda_experts *e,
                                         const struct phx_cuda_expert_sums *sums);
/// out[p] = act(gate x) * (up x), or W x, expert by expert as the notes say.
enum phx_status phx_cuda_experts_many(struct phx_stream *stream, const struct phx_cuda_experts *e,
                                      bool gated);
/// Sums over the pairs of `parts`.
enum phx_status phx_cuda_experts_sum(struct phx_stream *stream, const struct phx_cuda_experts *e,
                                     const struct phx_cuda_expert_sums *sums);

#ifdef __cplusplus
}
#endif
#endif
