/// \file planted_rope.cuh
/// What FAULT_QK_NORM_OVER_HEADS does in place of the norm of each head: plant_cuda.cmake puts it
/// into the CUDA rope.
#ifndef PHX_TESTS_FAULTS_PLANTED_ROPE_CUH
#define PHX_TESTS_FAULTS_PLANTED_ROPE_CUH

/* A block for the query heads of a row, and one for its key heads. */
template <typename T> __global__ void norm_over_heads(struct append_args a)
{
    __shared__ float shared[32];
    const bool is_k = blockIdx.y == 1;
    const int32_t n = (is_k ? a.n_kv_heads : a.n_heads) * a.head_dim;
    T *x = (T *)a.qkv + blockIdx.x * a.qkv_stride + (is_k ? a.n_heads * a.head_dim : 0);
    const float *norm = is_k ? a.k_norm : a.q_norm;
    float squares = 0;
    wait_for_predecessor();
    for (int32_t i = threadIdx.x; i < n; i += THREADS) squares += to_f32(x[i]) * to_f32(x[i]);
    squares = block_reduce(squares, add_op(), shared);
    const float scale = 1 / sqrtf(squares / (float)n + a.epsilon);
    for (int32_t i = threadIdx.x; i < n; i += THREADS)
        x[i] = from_f32<T>(to_f32(x[i]) * scale * norm[i % a.head_dim]);
}

template <typename T>
static enum phx_status planted_norm(struct phx_stream *stream, struct append_args *a,
                                    int32_t n_rows)
{
    if (test_fault != FAULT_QK_NORM_OVER_HEADS || a->q_norm == NULL) return PHX_OK;
    PHX_TRY(launch(stream, "norm_over_heads", {dim3((unsigned)n_rows, 2), THREADS},
                   norm_over_heads<T>, *a));
    a->q_norm = a->k_norm = NULL;
    return PHX_OK;
}

#endif
