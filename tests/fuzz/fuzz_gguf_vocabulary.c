/// Any bytes as a GGUF with a vocabulary; what parses must encode and decode.
#include <stdint.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "runtime/gguf.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = " The  abc's <s>12 \xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\r\n";
    struct phx_tokenizer *tokenizer = NULL;
    struct phx_gguf *gguf;
    if (phx_gguf_parse("fuzz", data, size, &gguf) != PHX_OK) return 0;
    if (phx_tokenizer_from_gguf(gguf, &tokenizer) == PHX_OK) {
        int32_t *ids = NULL;
        size_t n = 0, bytes = 0;
        char *decoded = NULL;
        PHX_ASSERT(phx_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &n) ==
                   PHX_OK);
        PHX_ASSERT(phx_tokenizer_decode(tokenizer, ids, n, false, &decoded, &bytes) == PHX_OK);
        PHX_ASSERT(phx_utf8_valid(decoded, bytes) == bytes);
        free(ids);
        free(decoded);
        phx_tokenizer_destroy(tokenizer);
    }
    phx_gguf_destroy(gguf);
    return 0;
}
