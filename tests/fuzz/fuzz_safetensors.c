/* The header of a safetensors file: the first eight bytes say how much data follows it. */
#include <stdint.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the contract promises of a header that is taken. */
static void check(const struct phx_file_tensor *tensors, size_t n, size_t data_bytes)
{
    for (size_t i = 0; i < n; i++) {
        const struct phx_file_tensor *t = &tensors[i];
        uintptr_t begin = (uintptr_t)t->data;
        PHX_ASSERT(begin <= data_bytes && t->bytes <= data_bytes - begin);
        PHX_ASSERT(t->n_dims >= 0 && t->n_dims <= PHX_MAX_TENSOR_DIMS);
        PHX_ASSERT(i == 0 || strcmp(tensors[i - 1].name, t->name) < 0);
        int64_t elements = 1;
        for (int d = 0; d < t->n_dims; d++) {
            PHX_ASSERT(t->shape[d] >= 0);
            if (t->dtype >= 0) elements *= t->shape[d];
        }
        if (t->dtype >= 0)
            PHX_ASSERT(t->bytes == phx_dtype_bytes((enum phx_dtype)t->dtype, elements));
        for (size_t k = 0; k < i; k++) {
            uintptr_t other = (uintptr_t)tensors[k].data;
            PHX_ASSERT(begin + t->bytes <= other || other + tensors[k].bytes <= begin);
        }
        char text[PHX_SHAPE_TEXT_BYTES];
        PHX_ASSERT(strlen(phx_file_tensor_shape_text(t, text)) < sizeof text - 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t data_bytes;
    if (size < sizeof data_bytes) return 0;
    memcpy(&data_bytes, data, sizeof data_bytes);
    struct phx_file_tensor *tensors = NULL;
    size_t n = 0;
    enum phx_status status =
        phx_safetensors_parse_header("fuzz", (const char *)data + sizeof data_bytes,
                                     size - sizeof data_bytes, data_bytes, &tensors, &n);
    if (status != PHX_OK) {
        PHX_ASSERT(*phx_fail_sentence() != '\0');
        return 0;
    }
    check(tensors, n, data_bytes);
    phx_safetensors_free_header(tensors, n);
    return 0;
}
