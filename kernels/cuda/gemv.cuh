/// \file gemv.cuh
/// What gemv.cu (one or two rows of x) and gemv_few.cu (more) share.
#ifndef PHX_KERNELS_CUDA_GEMV_CUH
#define PHX_KERNELS_CUDA_GEMV_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/types.cuh"

/// As struct phx_cuda_product. Of a gated product the weight has 2 * n_out rows: gates, then what
/// they gate.
struct gemv_args {
    const void *x;
    const void *weight;
    const float *bias;
    void *out;
    enum phx_dtype out_dtype;
    enum phx_activation activation;
    int64_t n_out; ///< columns of out
    int64_t x_stride, out_stride;
    float scale, soft_cap;
    int n, in;
};

/// Output `out` of row i from its sum and, where GATED, the sum that it gates.
template <bool GATED>
__device__ inline void finish(const struct gemv_args &a, int64_t out, int i, float sum, float gated)
{
    if (a.bias != NULL) sum += a.bias[out];
    if (GATED && a.bias != NULL) gated += a.bias[a.n_out + out];
    const float value =
        GATED ? activate(a.activation, sum) * gated : scaled_and_capped(sum, a.scale, a.soft_cap);
    store_any(a.out_dtype, a.out, i * a.out_stride + out, value);
}

/// n in 3..PHX_CUDA_GEMV_MAX_ROWS. (gemv_few.cu)
enum phx_status phx_cuda_gemv_few(struct phx_stream *stream, enum phx_dtype weight,
                                  enum phx_dtype x, bool is_gated, const struct gemv_args &args);

#endif
