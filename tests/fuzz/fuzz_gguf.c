/* A whole GGUF file. */
#include <stdint.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the contract promises of a file that is taken. */
static void check(const struct phx_gguf *gguf, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < phx_gguf_tensor_count(gguf); i++) {
        const struct phx_file_tensor *t = phx_gguf_tensor_at(gguf, i);
        size_t begin = (size_t)((const uint8_t *)t->data - data);
        PHX_ASSERT(begin <= size && t->bytes <= size - begin);
        PHX_ASSERT(phx_gguf_tensor(gguf, t->name) == t);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct phx_gguf *gguf = NULL;
    struct phx_config *config = NULL;
    struct phx_file_tensor *tensors = NULL;
    size_t n = 0;
    if (phx_gguf_parse("fuzz", data, size, &gguf) != PHX_OK) {
        PHX_ASSERT(*phx_fail_sentence() != '\0');
        return 0;
    }
    check(gguf, data, size);
    if (phx_gguf_config(gguf, &config) == PHX_OK) phx_config_destroy(config);
    if (phx_gguf_model_tensors(gguf, &tensors, &n) == PHX_OK)
        phx_safetensors_free_header(tensors, n);
    phx_gguf_destroy(gguf);
    return 0;
}
