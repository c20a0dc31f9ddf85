/// Any bytes as a tokenizer.model; what parses must encode and decode.
#include <stdint.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        " The  abc's <s>12 \xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\xe2\x96\x81\xef\xbc\xa1\r\n";
    static const struct phx_spm_options options = {.add_bos = true, .add_eos = true};
    struct phx_tokenizer *tokenizer;
    if (phx_tokenizer_parse_spm("fuzz", (const char *)data, size, &options, &tokenizer) != PHX_OK) {
        return 0;
    }
    int32_t *ids = NULL;
    size_t n = 0;
    if (phx_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &n) == PHX_OK) {
        char *decoded = NULL;
        size_t bytes = 0;
        for (size_t i = 0; i < n; i++) {
            PHX_ASSERT(ids[i] >= 0 && ids[i] < phx_tokenizer_size(tokenizer));
        }
        PHX_ASSERT(phx_tokenizer_decode(tokenizer, ids, n, false, &decoded, &bytes) == PHX_OK);
        PHX_ASSERT(phx_utf8_valid(decoded, bytes) == bytes);
        free(decoded);
    }
    free(ids);
    phx_tokenizer_destroy(tokenizer);
    return 0;
}
