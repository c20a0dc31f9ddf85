/* cuBLASLt, which chooses an algorithm for a shape; the choice is kept, since choosing takes longer
 * than a small product. cuBLASLt counts matrices column by column: our row-major out [n, n_out] is
 * its [n_out, n] = weight^T-as-it-sees-it x x. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

enum { N_PLANS = 512, PROBES = 8 };

struct key {
    int32_t dtype, out_dtype;
    int64_t n, in, n_out, x_stride, out_stride;
    uint32_t out_alignment, reserved;
};

struct plan {
    struct key key;
    bool used, possible;
    cublasLtMatmulAlgo_t algorithm;
};

struct phx_cuda_plans {
    struct plan plans[N_PLANS];
    uint32_t next; /* which of a key's places is given up when all are taken */
};

/* Descriptions of one product; plain memory, nothing to free. */
struct description {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t weight, x, out;
};

enum phx_status phx_cuda_plans_create(struct phx_cuda_plans **out)
{
    *out = calloc(1, sizeof **out);
    return *out != NULL ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "no memory for plans of products");
}

void phx_cuda_plans_destroy(struct phx_cuda_plans *plans)
{
    free(plans);
}

static enum phx_status lt_status(cublasStatus_t status, const char *call)
{
    if (status == CUBLAS_STATUS_SUCCESS) return PHX_OK;
    return phx_fail(PHX_DEVICE, "%s failed: %s", call, cublasLtGetStatusString(status));
}

#define LT_TRY(name, args) PHX_TRY(lt_status(name args, #name))

static cudaDataType_t data_type(int32_t dtype)
{
    return dtype == PHX_F32 ? CUDA_R_32F : dtype == PHX_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static uint32_t alignment_of(const struct phx_cuda_product *p)
{
    uintptr_t bits = (uintptr_t)p->out | phx_dtype_bytes(p->out_dtype, p->out_stride) | 16;
    return (uint32_t)(bits & (~bits + 1)); /* the lowest one */
}

static enum phx_status describe(const struct key *key, struct description *d)
{
    /* CUBLAS_COMPUTE_32F: f32 inputs are multiplied as such, never as TF32. */
    LT_TRY(cublasLtMatmulDescInit, (&d->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    LT_TRY(cublasLtMatmulDescSetAttribute,
           (&d->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    const cudaDataType_t type = data_type(key->dtype);
    LT_TRY(cublasLtMatrixLayoutInit,
           (&d->weight, type, (uint64_t)key->in, (uint64_t)key->n_out, key->in));
    LT_TRY(cublasLtMatrixLayoutInit,
           (&d->x, type, (uint64_t)key->in, (uint64_t)key->n, key->x_stride));
    LT_TRY(cublasLtMatrixLayoutInit, (&d->out, data_type(key->out_dtype), (uint64_t)key->n_out,
                                      (uint64_t)key->n, key->out_stride));
    return PHX_OK;
}

static enum phx_status set_preferences(struct phx_cuda_stream *stream, const struct key *key,
                                       cublasLtMatmulPreferenceOpaque_t *preferences)
{
    const size_t workspace = stream->sizes.workspace_bytes;
    const uint32_t aligned = 16, out_aligned = key->out_alignment;
    LT_TRY(cublasLtMatmulPreferenceInit, (preferences));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute,
           (preferences, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute,
           (preferences, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &aligned, sizeof aligned));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute,
           (preferences, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &aligned, sizeof aligned));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute,
           (preferences, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out_aligned,
            sizeof out_aligned));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute,
           (preferences, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out_aligned,
            sizeof out_aligned));
    return PHX_OK;
}

static enum phx_status choose(struct phx_cuda_stream *stream, struct description *d,
                              struct plan *plan)
{
    cublasLtMatmulPreferenceOpaque_t preferences;
    cublasLtMatmulHeuristicResult_t result;
    int n_found = 0;
    PHX_TRY(set_preferences(stream, &plan->key, &preferences));
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(phx_cuda_device(&stream->base)->lt, &d->product, &d->weight,
                                       &d->x, &d->out, &d->out, &preferences, 1, &result, &n_found);
    plan->possible =
        status == CUBLAS_STATUS_SUCCESS && n_found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (plan->possible) plan->algorithm = result.algo;
    return PHX_OK;
}

static uint32_t hash(const struct key *key)
{
    uint64_t h = 0;
    const int64_t parts[] = {key->dtype * 16 + key->out_dtype,
                             key->n,
                             key->in,
                             key->n_out,
                             key->x_stride,
                             key->out_stride,
                             key->out_alignment};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        h = phx_mix64(h + 0x9e3779b97f4a7c15ull * (uint64_t)parts[i]);
    return (uint32_t)h;
}

/* The key's plan, or the place for it. */
static struct plan *find(struct phx_cuda_plans *plans, const struct key *key)
{
    const uint32_t start = hash(key);
    for (uint32_t i = 0; i < PROBES; i++) {
        struct plan *plan = &plans->plans[(start + i) % N_PLANS];
        if (!plan->used || memcmp(&plan->key, key, sizeof *key) == 0) return plan;
    }
    struct plan *plan = &plans->plans[(start + plans->next++ % PROBES) % N_PLANS];
    plan->used = false;
    return plan;
}

enum phx_status phx_cuda_matmul(struct phx_stream *base, const struct phx_cuda_product *p,
                                bool *done)
{
    struct phx_cuda_stream *stream = phx_cuda_stream(base);
    const struct key key = {.dtype = p->x_dtype,
                            .out_dtype = p->out_dtype,
                            .n = p->n,
                            .in = p->in,
                            .n_out = p->n_out,
                            .x_stride = p->x_stride,
                            .out_stride = p->out_stride,
                            .out_alignment = alignment_of(p)};
    struct description d;
    PHX_ASSERT(p->x_dtype == p->weight_dtype);
    PHX_TRY(describe(&key, &d));
    struct plan *plan = find(stream->plans, &key);
    if (!plan->used) {
        plan->key = key;
        PHX_TRY(choose(stream, &d, plan));
        plan->used = true;
    }
    *done = plan->possible;
    if (!plan->possible) return PHX_OK;
    const float factor = phx_cuda_is_finished(p) && p->scale != 0 ? p->scale : 1, zero = 0;
    LT_TRY(cublasLtMatmul, (phx_cuda_device(base)->lt, &d.product, &factor, p->weight, &d.weight,
                            p->x, &d.x, &zero, p->out, &d.out, p->out, &d.out, &plan->algorithm,
                            stream->workspace, stream->sizes.workspace_bytes, stream->native));
    return PHX_OK;
}
