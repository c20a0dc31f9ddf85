/* The file tokenizer.model: sentencepiece_model.proto, whose field numbers stand here. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/protobuf.h"
#include "runtime/tokenizer/spm.h"

enum model_field { MODEL_PIECES = 1, MODEL_TRAINER, MODEL_NORMALIZER, MODEL_DENORMALIZER = 5 };
enum piece_field { PIECE_TEXT = 1, PIECE_SCORE, PIECE_TYPE };
enum trainer_field {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_SPACE_AS_SUFFIX = 24,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_UNKNOWN_SURFACE = 44,
    TRAINER_BOS = 46,
    TRAINER_EOS = 47,
};
enum normalizer_field { NORMALIZER_MAP = 2, NORMALIZER_PREFIX, NORMALIZER_TRIM, NORMALIZER_ESCAPE };
enum model_type { UNIGRAM = 1, BPE };

struct reading {
    struct phx_spm spm;
    uint64_t model_type;
    bool space_as_suffix, dummy_prefix;
    struct phx_slice bos, eos;
};

static enum phx_status take_bool(const struct phx_proto *proto, const struct phx_proto_field *field,
                                 const char *name, bool *out)
{
    PHX_TRY(phx_proto_expect(proto, field, PHX_PROTO_VARINT, name));
    *out = field->value != 0;
    return PHX_OK;
}

static enum phx_status take_bytes(const struct phx_proto *proto,
                                  const struct phx_proto_field *field, const char *name,
                                  struct phx_slice *out)
{
    PHX_TRY(phx_proto_expect(proto, field, PHX_PROTO_BYTES, name));
    *out = field->bytes;
    return PHX_OK;
}

static enum phx_status read_piece(struct phx_proto proto, struct reading *r)
{
    struct phx_spm_piece piece = {.text = {"", 0}, .type = PHX_SPM_NORMAL};
    struct phx_proto_field field;
    for (;;) {
        bool found;
        PHX_TRY(phx_proto_next(&proto, &field, &found));
        if (!found) break;
        if (field.number == PIECE_TEXT) {
            PHX_TRY(take_bytes(&proto, &field, "the text of a piece", &piece.text));
        } else if (field.number == PIECE_SCORE) {
            PHX_TRY(phx_proto_expect(&proto, &field, PHX_PROTO_32, "the score of a piece"));
            piece.score = phx_proto_float(&field);
        } else if (field.number == PIECE_TYPE) {
            PHX_TRY(phx_proto_expect(&proto, &field, PHX_PROTO_VARINT, "the type of a piece"));
            piece.type = (enum phx_spm_type)(field.value > 99 ? 99 : field.value);
        }
    }
    struct phx_spm_pieces *pieces = &r->spm.pieces;
    if (piece.type == PHX_SPM_UNKNOWN) {
        if (r->spm.unknown >= 0) {
            return phx_fail(PHX_BAD_DATA, "%s: the pieces %d and %zu are both the unknown one",
                            proto.file, r->spm.unknown, pieces->n);
        }
        r->spm.unknown = (int32_t)pieces->n;
    }
    PHX_TRY(PHX_RESERVE(pieces, 1));
    pieces->data[pieces->n++] = piece;
    return PHX_OK;
}

static enum phx_status read_trainer(struct phx_proto proto, struct reading *r)
{
    struct phx_proto_field field;
    for (;;) {
        bool found;
        PHX_TRY(phx_proto_next(&proto, &field, &found));
        if (!found) return PHX_OK;
        switch (field.number) {
        case TRAINER_MODEL_TYPE:
            PHX_TRY(phx_proto_expect(&proto, &field, PHX_PROTO_VARINT, "model_type"));
            r->model_type = field.value;
            break;
        case TRAINER_SPACE_AS_SUFFIX:
            PHX_TRY(take_bool(&proto, &field, "treat_whitespace_as_suffix", &r->space_as_suffix));
            break;
        case TRAINER_BYTE_FALLBACK:
            PHX_TRY(take_bool(&proto, &field, "byte_fallback", &r->spm.byte_fallback));
            break;
        case TRAINER_UNKNOWN_SURFACE:
            PHX_TRY(take_bytes(&proto, &field, "unk_surface", &r->spm.unknown_surface));
            break;
        case TRAINER_BOS:
            PHX_TRY(take_bytes(&proto, &field, "bos_piece", &r->bos));
            break;
        case TRAINER_EOS:
            PHX_TRY(take_bytes(&proto, &field, "eos_piece", &r->eos));
            break;
        default: /* how it was trained */
            break;
        }
    }
}

static enum phx_status read_normalizer(struct phx_proto proto, struct reading *r)
{
    struct phx_proto_field field;
    for (;;) {
        bool found;
        PHX_TRY(phx_proto_next(&proto, &field, &found));
        if (!found) return PHX_OK;
        switch (field.number) {
        case NORMALIZER_MAP:
            PHX_TRY(take_bytes(&proto, &field, "precompiled_charsmap", &r->spm.charsmap));
            break;
        case NORMALIZER_PREFIX:
            PHX_TRY(take_bool(&proto, &field, "add_dummy_prefix", &r->dummy_prefix));
            break;
        case NORMALIZER_TRIM:
            PHX_TRY(take_bool(&proto, &field, "remove_extra_whitespaces", &r->spm.trims));
            break;
        case NORMALIZER_ESCAPE:
            PHX_TRY(take_bool(&proto, &field, "escape_whitespaces", &r->spm.escapes));
            break;
        default:
            break;
        }
    }
}

/* A map from the text back to what it was before it was normalized. */
static enum phx_status check_denormalizer(struct phx_proto proto)
{
    struct phx_proto_field field;
    for (;;) {
        bool found;
        PHX_TRY(phx_proto_next(&proto, &field, &found));
        if (!found) return PHX_OK;
        if (field.number == NORMALIZER_MAP && field.bytes.n) {
            return phx_fail(PHX_UNSUPPORTED, "%s: a denormalizer_spec with a map is not supported",
                            proto.file);
        }
    }
}

static enum phx_status read_model(struct phx_proto proto, struct reading *r)
{
    struct phx_proto_field field;
    for (;;) {
        bool found;
        PHX_TRY(phx_proto_next(&proto, &field, &found));
        if (!found) return PHX_OK;
        if (field.number > MODEL_DENORMALIZER) continue;
        PHX_TRY(phx_proto_expect(&proto, &field, PHX_PROTO_BYTES, "a part of the model"));
        struct phx_proto part = {proto.file, field.bytes.data, field.bytes.n};
        switch (field.number) {
        case MODEL_PIECES:
            PHX_TRY(read_piece(part, r));
            break;
        case MODEL_TRAINER:
            PHX_TRY(read_trainer(part, r));
            break;
        case MODEL_NORMALIZER:
            PHX_TRY(read_normalizer(part, r));
            break;
        case MODEL_DENORMALIZER:
            PHX_TRY(check_denormalizer(part));
            break;
        default:
            break;
        }
    }
}

/* The id of a control piece with that text; -1 if there is none. */
static int32_t find_control(const struct phx_spm_pieces *pieces, struct phx_slice text)
{
    for (size_t id = 0; id < pieces->n; id++) {
        const struct phx_spm_piece *piece = &pieces->data[id];
        if (piece->type == PHX_SPM_CONTROL && piece->text.n == text.n &&
            memcmp(piece->text.data, text.data, text.n) == 0) {
            return (int32_t)id;
        }
    }
    return -1;
}

static enum phx_status build(struct reading *r, const struct phx_spm_options *options,
                             struct phx_tokenizer **out)
{
    static const char *const types[] = {"0", "UNIGRAM", "BPE", "WORD", "CHAR"};
    if (r->model_type != UNIGRAM && r->model_type != BPE) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: a model of type %s is not supported; known are UNIGRAM and BPE",
                        r->spm.file,
                        r->model_type < sizeof types / sizeof *types ? types[r->model_type]
                                                                     : "of a number unknown");
    }
    r->spm.unigram = r->model_type == UNIGRAM;
    r->spm.prepends = r->dummy_prefix && !r->space_as_suffix;
    r->spm.appends = r->dummy_prefix && r->space_as_suffix;
    if (options->add_bos) r->spm.bos = find_control(&r->spm.pieces, r->bos);
    if (options->add_eos) r->spm.eos = find_control(&r->spm.pieces, r->eos);
    return phx_tokenizer_from_spm(&r->spm, out);
}

enum phx_status phx_tokenizer_parse_spm(const char *name, const char *data, size_t n,
                                        const struct phx_spm_options *options,
                                        struct phx_tokenizer **out)
{
    struct reading r = {
        .spm = {.file = name,
                .trims = true,
                .escapes = true,
                .unknown_surface = {" \xe2\x81\x87 ", 5},
                .unknown = -1,
                .bos = -1,
                .eos = -1},
        .model_type = UNIGRAM,
        .dummy_prefix = true,
        .bos = {"<s>", 3},
        .eos = {"</s>", 4},
    };
    enum phx_status status = read_model((struct phx_proto){name, data, n}, &r);
    if (status == PHX_OK) status = build(&r, options, out);
    free(r.spm.pieces.data);
    return status;
}
