/* The vocabulary in a GGUF's metadata. The keys and what they mean: the specification in the GGML
 * project's docs/gguf.md; what goes without saying there is as llama.cpp has it. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf.h"
#include "runtime/json.h"
#include "runtime/tokenizer/gguf_pre.h"
#include "runtime/tokenizer/spm.h"

#define KEY(name) "tokenizer.ggml." name

static enum phx_status check_count(const struct phx_gguf *gguf, const char *key,
                                   const struct phx_gguf_value *value, uint64_t n)
{
    if (!value || value->count == n) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: %s has %llu elements, but there are %llu tokens",
                    phx_gguf_path(gguf), key, (unsigned long long)value->count,
                    (unsigned long long)n);
}

static enum phx_status read_pieces(const struct phx_gguf *gguf, struct phx_spm_pieces *pieces)
{
    const struct phx_gguf_value *tokens = NULL, *scores = NULL, *types = NULL;
    PHX_TRY(phx_gguf_require(gguf, KEY("tokens")));
    PHX_TRY(phx_gguf_strings(gguf, KEY("tokens"), &tokens));
    PHX_TRY(phx_gguf_reals(gguf, KEY("scores"), &scores));
    PHX_TRY(phx_gguf_ints(gguf, KEY("token_type"), &types));
    PHX_TRY(check_count(gguf, KEY("scores"), scores, tokens->count));
    PHX_TRY(check_count(gguf, KEY("token_type"), types, tokens->count));
    if (tokens->count > (uint64_t)PHX_MAX_TOKEN_ID + 1) {
        return phx_fail(PHX_BAD_DATA, "%s: it has %llu tokens; at most %d are supported",
                        phx_gguf_path(gguf), (unsigned long long)tokens->count,
                        PHX_MAX_TOKEN_ID + 1);
    }
    PHX_TRY(PHX_RESERVE(pieces, (size_t)tokens->count));
    const unsigned char *at = tokens->data;
    for (uint64_t i = 0; i < tokens->count; i++) {
        struct phx_gguf_string text = phx_gguf_next_string(&at);
        int64_t type = types ? phx_gguf_int_at(types, i) : PHX_SPM_NORMAL;
        pieces->data[pieces->n++] = (struct phx_spm_piece){
            .text = {text.data, text.bytes},
            .score = scores ? (float)phx_gguf_real_at(scores, i) : 0,
            .type = (enum phx_spm_type)(type < 0 || type > 99 ? 99 : type),
        };
    }
    return PHX_OK;
}

/* The id in a key, or as it is without the key; none if the vocabulary ends before. */
static enum phx_status read_id(const struct phx_gguf *gguf, const char *key, size_t n, int32_t *out)
{
    int64_t id = *out < (int64_t)n ? *out : -1;
    PHX_TRY(phx_gguf_int(gguf, key, 0, (int64_t)n - 1, &id));
    *out = (int32_t)id;
    return PHX_OK;
}

/* spm->bos and spm->eos: the tokens that are added, of those that the file names or that `bos` and
 * `eos` are. */
static enum phx_status read_ends(const struct phx_gguf *gguf, int32_t bos, int32_t eos,
                                 bool add_bos, struct phx_spm *spm)
{
    bool add_eos = false;
    PHX_TRY(read_id(gguf, KEY("bos_token_id"), spm->pieces.n, &bos));
    PHX_TRY(read_id(gguf, KEY("eos_token_id"), spm->pieces.n, &eos));
    PHX_TRY(phx_gguf_bool(gguf, KEY("add_bos_token"), &add_bos));
    PHX_TRY(phx_gguf_bool(gguf, KEY("add_eos_token"), &add_eos));
    spm->bos = add_bos ? bos : -1;
    spm->eos = add_eos ? eos : -1;
    return PHX_OK;
}

static enum phx_status make_llama(const struct phx_gguf *gguf, struct phx_spm *spm,
                                  struct phx_tokenizer **out)
{
    bool trims = false;
    PHX_TRY(phx_gguf_require(gguf, KEY("scores")));
    PHX_TRY(phx_gguf_bool(gguf, KEY("remove_extra_whitespaces"), &trims));
    if (trims || phx_gguf_find(gguf, KEY("precompiled_charsmap"))) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: " KEY("%s") " of a vocabulary of model llama is not supported",
                        spm->file, trims ? "remove_extra_whitespaces" : "precompiled_charsmap");
    }
    spm->prepends = true;
    spm->escapes = true;
    spm->unknown = 0;
    PHX_TRY(phx_gguf_bool(gguf, KEY("add_space_prefix"), &spm->prepends));
    PHX_TRY(read_id(gguf, KEY("unknown_token_id"), spm->pieces.n, &spm->unknown));
    PHX_TRY(read_ends(gguf, 1, 2, true, spm));
    for (size_t id = 0; id < spm->pieces.n; id++) {
        spm->byte_fallback |= spm->pieces.data[id].type == PHX_SPM_BYTE;
    }
    return phx_tokenizer_from_spm(spm, out);
}

static enum phx_status find_part(const struct phx_spm *spm, const struct phx_vocabulary *vocabulary,
                                 const char *data, size_t n, int32_t *out)
{
    *out = phx_vocabulary_find(vocabulary, data, n);
    if (*out >= 0) return PHX_OK;
    return phx_fail(PHX_BAD_DATA,
                    "%s: a merge names the token \"%.*s\", which is not in the vocabulary",
                    spm->file, (int)(n < 200 ? n : 200), data);
}

/* Merges are "a b". */
static enum phx_status fill_merges(const struct phx_gguf *gguf, const struct phx_spm *spm,
                                   struct phx_tokenizer *t)
{
    const struct phx_gguf_value *merges = NULL;
    PHX_TRY(phx_gguf_require(gguf, KEY("merges")));
    PHX_TRY(phx_gguf_strings(gguf, KEY("merges"), &merges));
    PHX_TRY(phx_bpe_create(&t->vocabulary, (size_t)merges->count, &t->bpe));
    const unsigned char *at = merges->data;
    struct phx_bytes joined = {0};
    enum phx_status status = PHX_OK;
    for (uint64_t i = 0; i < merges->count; i++) {
        struct phx_gguf_string merge = phx_gguf_next_string(&at);
        const char *space = merge.bytes ? memchr(merge.data, ' ', merge.bytes) : NULL;
        size_t left_bytes = space ? (size_t)(space - merge.data) : 0;
        if (left_bytes == 0 || left_bytes + 1 == merge.bytes) {
            status = phx_fail(PHX_BAD_DATA, "%s: merge %llu is broken; it must be \"a b\"",
                              spm->file, (unsigned long long)i);
            break;
        }
        int32_t left, right, id;
        size_t right_bytes = merge.bytes - left_bytes - 1;
        joined.n = 0;
        PHX_TRY_GOTO(find_part(spm, &t->vocabulary, merge.data, left_bytes, &left), done);
        PHX_TRY_GOTO(find_part(spm, &t->vocabulary, space + 1, right_bytes, &right), done);
        PHX_TRY_GOTO(phx_bytes_append(&joined, merge.data, left_bytes), done);
        PHX_TRY_GOTO(phx_bytes_append(&joined, space + 1, right_bytes), done);
        PHX_TRY_GOTO(find_part(spm, &t->vocabulary, joined.data, joined.n, &id), done);
        phx_bpe_add_merge(&t->bpe, left, right, (uint32_t)i, id);
    }
done:
    free(joined.data);
    return status;
}

static enum phx_status parse_steps(const struct phx_spm *spm, const struct phx_gguf_pre *pre,
                                   struct phx_tokenizer *t)
{
    json_t *normalizer = NULL, *pre_tokenizer = NULL, *decoder = NULL;
    enum phx_status status;
    PHX_TRY_GOTO(phx_json_parse(spm->file, pre->normalizer, strlen(pre->normalizer), &normalizer),
                 done);
    PHX_TRY_GOTO(phx_json_parse(spm->file, pre->steps, strlen(pre->steps), &pre_tokenizer), done);
    PHX_TRY_GOTO(phx_json_parse(spm->file, "{\"type\":\"ByteLevel\"}", 20, &decoder), done);
    PHX_TRY_GOTO(phx_normalizer_parse(spm->file, normalizer, &t->normalizer), done);
    PHX_TRY_GOTO(phx_pre_tokenizer_parse(spm->file, pre_tokenizer, &t->pre_tokenizer), done);
    PHX_TRY_GOTO(phx_decoder_parse(spm->file, decoder, &t->decoder), done);
done:
    json_decref(normalizer);
    json_decref(pre_tokenizer);
    json_decref(decoder);
    return status;
}

static enum phx_status find_pre(const struct phx_gguf *gguf, struct phx_gguf_pre *out)
{
    struct phx_gguf_string name = {0};
    PHX_TRY(phx_gguf_require(gguf, KEY("pre")));
    PHX_TRY(phx_gguf_text(gguf, KEY("pre"), &name));
    if (phx_gguf_pre_find(name.data, name.bytes, out)) return PHX_OK;
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: " KEY("pre") " is \"%.*s\", which is not supported; known are llama-bpe, "
                                      "qwen2, gpt-2, gpt-4o, tekken, deepseek-v3, dbrx and others",
                    phx_gguf_path(gguf), (int)(name.bytes < 100 ? name.bytes : 100), name.data);
}

static enum phx_status fill_gpt2(const struct phx_gguf *gguf, struct phx_spm *spm,
                                 struct phx_tokenizer *t)
{
    struct phx_gguf_pre pre;
    PHX_TRY(find_pre(gguf, &pre));
    PHX_TRY(phx_spm_fill_pieces(spm, t));
    PHX_TRY(fill_merges(gguf, spm, t));
    t->bpe.ignore_merges = pre.ignores_merges;
    PHX_TRY(parse_steps(spm, &pre, t));
    PHX_TRY(read_ends(gguf, -1, -1, pre.adds_bos, spm));
    PHX_TRY(phx_template_fill(spm->bos, spm->eos, t));
    return phx_tokenizer_assemble(spm->file, t);
}

static enum phx_status make_gpt2(const struct phx_gguf *gguf, struct phx_spm *spm,
                                 struct phx_tokenizer **out)
{
    struct phx_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for the tokenizer", spm->file);
    enum phx_status status = fill_gpt2(gguf, spm, t);
    if (status != PHX_OK) {
        phx_tokenizer_destroy(t);
        return status;
    }
    *out = t;
    return PHX_OK;
}

enum phx_status phx_tokenizer_from_gguf(const struct phx_gguf *gguf, struct phx_tokenizer **out)
{
    struct phx_gguf_string model = {0};
    struct phx_spm spm = {
        .file = phx_gguf_path(gguf),
        .cuts_all = true,
        .unknown_surface = {" \xe2\x81\x87 ", 5},
        .unknown = -1,
    };
    struct phx_gguf_string json = {0};
    PHX_TRY(phx_gguf_text(gguf, "tokenizer.huggingface.json", &json));
    if (json.data && !phx_gguf_find(gguf, KEY("model")))
        return phx_tokenizer_parse(spm.file, json.data, json.bytes, out);
    PHX_TRY(phx_gguf_require(gguf, KEY("model")));
    PHX_TRY(phx_gguf_text(gguf, KEY("model"), &model));
    bool llama = phx_gguf_string_is(model, "llama");
    if (!llama && !phx_gguf_string_is(model, "gpt2")) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: " KEY("model") " is \"%.*s\", which is not supported; known are llama "
                                            "and gpt2",
                        spm.file, (int)(model.bytes < 100 ? model.bytes : 100), model.data);
    }
    enum phx_status status = read_pieces(gguf, &spm.pieces);
    if (status == PHX_OK) status = (llama ? make_llama : make_gpt2)(gguf, &spm, out);
    free(spm.pieces.data);
    return status;
}
