#include "kernels/cuda/sizes.h"

enum {
    WIDE_ROWS = 2048,           /* rows of gate and up at a time */
    PACKED_ROWS = 512,          /* rows of askew inputs at a time */
    WORKSPACE_BYTES = 32 << 20, /* what cuBLAS itself takes on these GPUs */
    EXPANDED_BYTES = 32 << 20,  /* at most: stays in the second-level cache until it is read */
    EXPANDED_ROWS = 64,         /* at least, whatever they take */
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

/* Widest input of a product as its weight lies: a quantised one may begin and end within a block.
 */
static int64_t widest_in(const struct phx_limits *limits)
{
    return phx_cuda_pitch(limits->max_in) + (limits->quantised ? 2 * PHX_MAX_BLOCK_ELEMENTS : 0);
}

static size_t expanded_bytes(const struct phx_device *device, const struct phx_limits *limits)
{
    size_t row_bytes = phx_dtype_bytes(device->info.activation, widest_in(limits));
    int64_t rows = EXPANDED_BYTES / (int64_t)row_bytes;
    if (!limits->quantised) return 0;
    if (rows > limits->max_out) rows = limits->max_out;
    return aligned((size_t)(rows > EXPANDED_ROWS ? rows : EXPANDED_ROWS) * row_bytes);
}

/* For one KV head, which has the most workers. */
static size_t attention_bytes(const struct phx_device *device, const struct phx_limits *limits)
{
    int64_t places = (int64_t)phx_cuda_attention_workers(device, 1) + limits->max_seqs;
    return sizeof(float) *
           (size_t)(places * limits->max_heads * phx_cuda_share_pitch(limits->max_head_dim));
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
        .packed_bytes =
            aligned(phx_dtype_bytes(act, min64(limits->max_rows, PACKED_ROWS) * widest_in(limits))),
        .wide_bytes = aligned(phx_dtype_bytes(act, min64(limits->max_rows, WIDE_ROWS) *
                                                       phx_cuda_pitch(limits->max_out))),
        .expanded_bytes = expanded_bytes(device, limits),
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
    return sizes.workspace_bytes + sizes.packed_bytes + sizes.wide_bytes + sizes.expanded_bytes +
           sizes.partial_bytes + sizes.tickets_bytes + sizes.best_bytes;
}

int64_t phx_cuda_stored_cols(const struct phx_weight_shape *shape)
{
    if (phx_dtype_traits(shape->dtype)->is_float) return phx_cuda_pitch(shape->cols);
    return (phx_weight_stored_cols(shape) + PHX_CUDA_PART - 1) / PHX_CUDA_PART * PHX_CUDA_PART;
}

struct phx_cuda_block_pitches phx_cuda_block_pitches(const struct phx_weight_shape *shape)
{
    static const struct phx_cuda_block_pitches of_256[PHX_DTYPE_COUNT] = {
        [PHX_Q8_0] = {256, 0, 16, 0},  [PHX_Q4_0] = {128, 0, 16, 0},  [PHX_Q4_1] = {128, 0, 32, 0},
        [PHX_Q5_0] = {128, 32, 16, 0}, [PHX_Q5_1] = {128, 32, 32, 0}, [PHX_Q4_K] = {128, 0, 16, 0},
        [PHX_Q5_K] = {128, 32, 16, 0}, [PHX_Q6_K] = {128, 64, 16, 2},
    };
    const struct phx_cuda_block_pitches each = of_256[shape->dtype];
    const uint32_t parts = (uint32_t)(phx_cuda_stored_cols(shape) / PHX_CUDA_PART);
    return (struct phx_cuda_block_pitches){each.quants * parts / 2, each.tops * parts / 2,
                                           each.scales * parts / 2, each.supers * parts / 2};
}

size_t phx_cuda_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape)
{
    (void)device;
    if (phx_dtype_traits(shape->dtype)->is_float)
        return phx_dtype_bytes(shape->dtype, shape->rows * phx_cuda_stored_cols(shape));
    const struct phx_cuda_block_pitches each = phx_cuda_block_pitches(shape);
    return (size_t)shape->rows * (each.quants + each.tops + each.scales + each.supers);
}
