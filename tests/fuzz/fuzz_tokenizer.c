/// Any bytes as a tokenizer.json; what parses must encode and decode, and a stream must give the
/// text of the whole.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_stream(const struct phx_tokenizer *tokenizer, const int32_t *ids, size_t n,
                         const char *whole, size_t whole_bytes)
{
    struct phx_text_stream *stream;
    const char *piece;
    size_t bytes, at = 0;
    PHX_ASSERT(phx_text_stream_create(tokenizer, NULL, 0, true, &stream) == PHX_OK);
    for (size_t i = 0; i <= n; i++) {
        PHX_ASSERT((i < n ? phx_text_stream_push(stream, ids[i], &piece, &bytes)
                          : phx_text_stream_flush(stream, &piece, &bytes)) == PHX_OK);
        PHX_ASSERT(phx_utf8_valid(piece, bytes) == bytes);
        PHX_ASSERT(bytes <= whole_bytes - at && memcmp(piece, whole + at, bytes) == 0);
        at += bytes;
    }
    PHX_ASSERT(at == whole_bytes);
    phx_text_stream_destroy(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "The  abc's <s>12 \xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\xe2\x96\x81\r\n";
    struct phx_tokenizer *tokenizer;
    if (phx_tokenizer_parse("fuzz", (const char *)data, size, &tokenizer) != PHX_OK) return 0;
    int32_t *ids = NULL;
    size_t n = 0;
    if (phx_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &n) == PHX_OK) {
        char *decoded = NULL;
        size_t bytes = 0;
        PHX_ASSERT(phx_tokenizer_decode(tokenizer, ids, n, true, &decoded, &bytes) == PHX_OK);
        PHX_ASSERT(phx_utf8_valid(decoded, bytes) == bytes);
        check_stream(tokenizer, ids, n, decoded, bytes);
        free(decoded);
    }
    free(ids);
    phx_tokenizer_destroy(tokenizer);
    return 0;
}
