#include "runtime/tokenizer/spm.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/charsmap.h"

/* Of each byte of a user-defined piece but one: a score that nearly always wins. As sentencepiece
 * from 0.2.2 on; before, such a piece had -0.1, and of equal scores others won. */
#define USER_DEFINED_SCORE 0.1
#define ESCAPED_SPACE "\xe2\x96\x81"

static enum phx_status no_memory(const struct phx_spm *spm)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for the tokenizer", spm->file);
}

static enum phx_status check_piece(const struct phx_spm *spm, size_t id)
{
    const struct phx_spm_piece *piece = &spm->pieces.data[id];
    const char *text = piece->text.data;
    size_t n = piece->text.n;
    if (n == 0 || memchr(text, 0, n) || phx_utf8_valid(text, n) != n) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: piece %zu is %s; it must be UTF-8 text without zero bytes", spm->file,
                        id, n ? "broken" : "empty");
    }
    if (piece->type < PHX_SPM_NORMAL || piece->type > PHX_SPM_BYTE) {
        return phx_fail(PHX_UNSUPPORTED, "%s: piece %zu, \"%.*s\", has the unknown type %d",
                        spm->file, id, (int)n, text, (int)piece->type);
    }
    if (!isfinite(piece->score)) {
        return phx_fail(PHX_BAD_DATA, "%s: the score of piece %zu, \"%.*s\", is not finite",
                        spm->file, id, (int)n, text);
    }
    if (piece->type == PHX_SPM_UNUSED && !spm->unigram && !spm->cuts_all) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: piece %zu, \"%.*s\", is unused, which is not supported with BPE",
                        spm->file, id, (int)n, text);
    }
    return PHX_OK;
}

static enum phx_status fill_vocabulary(const struct phx_spm *spm, struct phx_tokenizer *t)
{
    size_t bytes = 0, n = spm->pieces.n;
    if (n == 0 || n > (size_t)PHX_MAX_TOKEN_ID + 1) {
        return phx_fail(PHX_BAD_DATA, "%s: it has %zu pieces; it must have 1 to %d", spm->file, n,
                        PHX_MAX_TOKEN_ID + 1);
    }
    const struct phx_slice *surface = &spm->unknown_surface;
    if (phx_utf8_valid(surface->data, surface->n) != surface->n) {
        return phx_fail(PHX_BAD_DATA, "%s: unk_surface is not valid UTF-8", spm->file);
    }
    for (size_t id = 0; id < n; id++) {
        PHX_TRY(check_piece(spm, id));
        bytes += spm->pieces.data[id].text.n + 1;
    }
    t->n_tokens = (int32_t)n;
    t->texts = malloc(bytes + surface->n + 1);
    if (!t->texts) return no_memory(spm);
    PHX_TRY(phx_vocabulary_create(t->n_tokens, n, &t->vocabulary));
    char *next = t->texts;
    for (size_t id = 0; id < n; id++) {
        struct phx_slice text = spm->pieces.data[id].text;
        int32_t other = phx_vocabulary_find(&t->vocabulary, text.data, text.n);
        if (other >= 0) {
            return phx_fail(PHX_BAD_DATA, "%s: the pieces %d and %zu are both written \"%.*s\"",
                            spm->file, other, id, (int)text.n, text.data);
        }
        memcpy(next, text.data, text.n);
        next[text.n] = '\0';
        phx_vocabulary_add(&t->vocabulary, (struct phx_slice){next, text.n}, (int32_t)id);
        next += text.n + 1;
    }
    if (surface->n) memcpy(next, surface->data, surface->n);
    next[surface->n] = '\0';
    return PHX_OK;
}

static bool is_special(const struct phx_spm *spm, enum phx_spm_type type)
{
    return type == PHX_SPM_CONTROL || (type == PHX_SPM_UNKNOWN && spm->cuts_all);
}

/* Control pieces, found in the text as it is written, and user-defined ones. */
static enum phx_status fill_added(const struct phx_spm *spm, struct phx_tokenizer *t)
{
    size_t n = 0;
    for (size_t id = 0; id < spm->pieces.n; id++) {
        enum phx_spm_type type = spm->pieces.data[id].type;
        n += is_special(spm, type) || type == PHX_SPM_USER_DEFINED;
    }
    t->added = calloc(n + 1, sizeof *t->added);
    if (!t->added) return no_memory(spm);
    for (size_t id = 0; id < spm->pieces.n; id++) {
        const struct phx_spm_piece *piece = &spm->pieces.data[id];
        bool special = is_special(spm, piece->type);
        if (!special && piece->type != PHX_SPM_USER_DEFINED) continue;
        struct phx_added *added = &t->added[t->n_added++];
        added->id = (int32_t)id;
        added->special = special;
        added->normalized = !special && !spm->cuts_all;
        added->content = strndup(piece->text.data, piece->text.n);
        added->match = strndup(piece->text.data, piece->text.n);
        if (!added->content || !added->match) return no_memory(spm);
    }
    return PHX_OK;
}

enum phx_status phx_spm_fill_pieces(const struct phx_spm *spm, struct phx_tokenizer *tokenizer)
{
    PHX_TRY(fill_vocabulary(spm, tokenizer));
    return fill_added(spm, tokenizer);
}

static enum phx_status check_bytes(const struct phx_spm *spm, const int32_t byte_ids[256])
{
    for (unsigned byte = 0; byte < 256; byte++) {
        int32_t id = byte_ids[byte];
        if (id < 0 || spm->pieces.data[id].type != PHX_SPM_BYTE) {
            return phx_fail(PHX_BAD_DATA, "%s: it falls back to bytes, but <0x%02X> is %s",
                            spm->file, byte, id < 0 ? "missing" : "no byte piece");
        }
    }
    return PHX_OK;
}

static enum phx_status fill_bpe(const struct phx_spm *spm, struct phx_tokenizer *t)
{
    size_t n = spm->pieces.n;
    PHX_TRY(phx_bpe_create(&t->vocabulary, 0, &t->bpe));
    t->bpe.unknown = spm->unknown;
    if (spm->byte_fallback) {
        phx_vocabulary_find_bytes(&t->vocabulary, t->bpe.byte_ids);
        PHX_TRY(check_bytes(spm, t->bpe.byte_ids));
    }
    float *scores = calloc(n, sizeof *scores);
    bool *mergeable = calloc(n, sizeof *mergeable);
    enum phx_status status = scores && mergeable ? PHX_OK : no_memory(spm);
    for (size_t id = 0; status == PHX_OK && id < n; id++) {
        const struct phx_spm_piece *piece = &spm->pieces.data[id];
        scores[id] = piece->score;
        mergeable[id] = piece->type == PHX_SPM_NORMAL || piece->type == PHX_SPM_USER_DEFINED ||
                        piece->type == PHX_SPM_UNUSED;
    }
    if (status == PHX_OK) status = phx_bpe_rank_by_score(&t->bpe, scores, mergeable);
    free(scores);
    free(mergeable);
    return status;
}

static enum phx_status fill_unigram(const struct phx_spm *spm, struct phx_tokenizer *t)
{
    struct phx_unigram *unigram = &t->unigram;
    float lowest = FLT_MAX;
    PHX_TRY(phx_unigram_create(&t->vocabulary, unigram));
    unigram->sentencepiece = true;
    unigram->unknown = spm->unknown;
    if (spm->byte_fallback) {
        phx_vocabulary_find_bytes(&t->vocabulary, unigram->byte_ids);
        PHX_TRY(check_bytes(spm, unigram->byte_ids));
    }
    for (size_t id = 0; id < spm->pieces.n; id++) {
        const struct phx_spm_piece *piece = &spm->pieces.data[id];
        if (piece->type == PHX_SPM_NORMAL) lowest = fminf(lowest, piece->score);
    }
    for (size_t id = 0; id < spm->pieces.n; id++) {
        const struct phx_spm_piece *piece = &spm->pieces.data[id];
        double score = piece->score;
        if (piece->type == PHX_SPM_USER_DEFINED) {
            score = (float)(USER_DEFINED_SCORE * (double)(piece->text.n - 1));
        } else if (piece->type != PHX_SPM_NORMAL) {
            continue;
        }
        PHX_TRY(phx_unigram_add(unigram, (int32_t)id, score));
    }
    unigram->unknown_score = lowest - (float)PHX_UNKNOWN_PENALTY;
    return PHX_OK;
}

static enum phx_status fill_steps(const struct phx_spm *spm, struct phx_tokenizer *t)
{
    PHX_TRY(PHX_RESERVE(&t->normalizer, 1));
    struct phx_spm_rules *rules = calloc(1, sizeof *rules);
    if (!rules) return no_memory(spm);
    t->normalizer.data[t->normalizer.n++] =
        (struct phx_step){.kind = PHX_STEP_RULES, .rules = rules};
    rules->prepends = spm->prepends;
    rules->appends = spm->appends;
    rules->trims = spm->trims;
    rules->escapes = spm->escapes;
    PHX_TRY(phx_charsmap_create(spm->file, spm->charsmap.data, spm->charsmap.n, &rules->map));
    PHX_TRY(phx_added_set_create(spm->file, t->added, t->n_added, true, &rules->symbols));

    PHX_TRY(PHX_RESERVE(&t->decoder, 1));
    t->decoder.data[t->decoder.n++] = (struct phx_stage){
        .kind = PHX_STAGE_PIECES,
        .content = strdup(ESCAPED_SPACE),
        .drop_first = spm->prepends || spm->appends || spm->trims,
        .drop_all = spm->trims,
        .bytes = spm->byte_fallback,
    };
    return t->decoder.data[0].content ? PHX_OK : no_memory(spm);
}

static enum phx_status fill_all(const struct phx_spm *spm, struct phx_tokenizer *t)
{
    if (spm->unknown < 0 && !spm->byte_fallback) {
        return phx_fail(PHX_BAD_DATA, "%s: it has neither an unknown piece nor byte pieces",
                        spm->file);
    }
    PHX_TRY(phx_spm_fill_pieces(spm, t));
    PHX_TRY(spm->unigram ? fill_unigram(spm, t) : fill_bpe(spm, t));
    PHX_TRY(fill_steps(spm, t));
    PHX_TRY(phx_template_fill(spm->bos, spm->eos, t));
    PHX_TRY(phx_tokenizer_assemble(spm->file, t));
    /* BPE never merges a user-defined piece with what is beside it; Unigram weighs it. */
    if (spm->unigram) phx_added_set_destroy(&t->normalized);
    if (spm->unknown >= 0) {
        const char *surface = t->texts + spm->pieces.n; /* behind the texts and their zero bytes */
        for (size_t id = 0; id < spm->pieces.n; id++) surface += spm->pieces.data[id].text.n;
        t->tokens[spm->unknown].text = (struct phx_slice){surface, spm->unknown_surface.n};
    }
    return PHX_OK;
}

enum phx_status phx_tokenizer_from_spm(const struct phx_spm *spm, struct phx_tokenizer **out)
{
    struct phx_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return no_memory(spm);
    enum phx_status status = fill_all(spm, t);
    if (status != PHX_OK) {
        phx_tokenizer_destroy(t);
        return status;
    }
    *out = t;
    return PHX_OK;
}
