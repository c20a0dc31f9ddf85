#include "kernels/cuda/sizes.h"

enum {
    WIDE_ROWS = 2048,           /* rows of gate and up at a time */
    PACKED_ROWS = 512,          /* rows of askew inputs at a time */
    WORKSPACE_BYTES = 32 << 20, /* what cuBLAS itself takes on these GPUs */
    SCRATCH_ALIGNMENT = 256,
    ATTENTION_BLOCKS_PER_SM = 4,
    SLICES_PER_SM = 2,
};

static size_t aligned(size_t bytes)
{
    return (bytes + SCRATCH_ALIGNMENT - 1) & ~(size_t)(SCRATCH_ALIGNMENT - 1);
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int32_t phx_cuda_attention_workers(const struct phx_device *device, int32_t n_kv_heads)
{
    int32_t blocks = device->info.n_units * ATTENTION_BLOCKS_PER_SM;
    return blocks / n_kv_heads > 1 ? blocks / n_kv_heads : 1;
}

/* For one KV head, which has the most workers. */
static size_t attention_bytes(const struct phx_device *device, const struct phx_limits *limits)
{
    int64_t places = (int64_t)phx_cuda_attention_workers(device, 1) + limits->max_seqs;
    return sizeof(float) * (size_t)(places * limits->max_heads * (limits->max_head_dim + 2));
}

int64_t phx_cuda_candidate_slices(const struct phx_device *device)
{
    return (int64_t)device->info.n_units * SLICES_PER_SM;
}

struct phx_cuda_scratch phx_cuda_scratch_sizes(const struct phx_device *device,
                                               const struct phx_limits *limits)
{
    enum phx_dtype act = device->info.activation;
    return (struct phx_cuda_scratch){
        .workspace_bytes = WORKSPACE_BYTES,
        .packed_bytes = aligned(phx_dtype_bytes(act, min64(limits->max_rows, PACKED_ROWS) *
                                                         phx_cuda_pitch(limits->max_in))),
        .wide_bytes = aligned(phx_dtype_bytes(act, min64(limits->max_rows, WIDE_ROWS) *
                                                       phx_cuda_pitch(limits->max_out))),
        .partial_bytes = aligned(attention_bytes(device, limits)),
        .tickets_bytes =
            aligned(sizeof(unsigned) * (size_t)((int64_t)limits->max_seqs * limits->max_heads)),
        .best_bytes =
            aligned((size_t)phx_cuda_candidate_slices(device) *
                    (PHX_MAX_CANDIDATES * sizeof(uint64_t) + sizeof(struct phx_cuda_slice_sum))),
    };
}

size_t phx_cuda_stream_scratch_bytes(const struct phx_device *device,
                                     const struct phx_limits *limits)
{
    struct phx_cuda_scratch sizes = phx_cuda_scratch_sizes(device, limits);
    return sizes.workspace_bytes + sizes.packed_bytes + sizes.wide_bytes + sizes.partial_bytes +
           sizes.tickets_bytes + sizes.best_bytes;
}

size_t phx_cuda_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape)
{
    (void)device;
    if (!phx_dtype_traits(shape->dtype)->is_float) /* as in files; phx_weight_create() refuses */
        return (size_t)shape->rows * phx_dtype_bytes(shape->dtype, phx_weight_stored_cols(shape));
    return phx_dtype_bytes(shape->dtype, shape->rows * phx_cuda_pitch(shape->cols));
}
