#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/json.h"
#include "runtime/tokenizer/charsmap.h"
#include "runtime/tokenizer/tokenizer_impl.h"

/* GPT-2's words, which ByteLevel brings along. */
#define GPT2_WORDS                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* \w of the Rust crate that Whitespace is made with, phx_unicode_is_word(). */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"
#define ASCII_PUNCTUATION "!-/:-@\\[-`{-~"

enum { MAX_STAGES = 64 }; /* of decoding, where each calls the next */

struct family;

/* Where components go: normalizers and pre-tokenizers to steps, decoders to stages. */
struct target {
    const char *file;
    const struct family *family;
    struct phx_steps *steps;
    struct phx_decoder *decoder;
    int variant; /* of the component that is being parsed */
};

/* A type that is known. Types that differ in one value share a parser and tell it the value. */
struct component {
    const char *type;
    enum phx_status (*parse)(const struct target *target, const struct phx_json *json);
    int variant;
};

struct family {
    const char *name;     /* for messages */
    const char *list_key; /* of a Sequence */
    const struct component *components;
    size_t n;
};

static enum phx_status add_step(const struct target *t, enum phx_step_kind kind,
                                struct phx_step **out)
{
    PHX_TRY(PHX_RESERVE(t->steps, 1));
    *out = &t->steps->data[t->steps->n++];
    **out = (struct phx_step){.kind = kind};
    return PHX_OK;
}

static enum phx_status add_stage(const struct target *t, enum phx_stage_kind kind,
                                 struct phx_stage **out)
{
    PHX_TRY(PHX_RESERVE(t->decoder, 1));
    *out = &t->decoder->data[t->decoder->n++];
    **out = (struct phx_stage){.kind = kind};
    return PHX_OK;
}

static enum phx_status copy_text(const struct target *t, const char *text, char **out)
{
    *out = strdup(text);
    return *out ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a component", t->file);
}

static enum phx_status required_string(const struct phx_json *json, const char *key,
                                       const char **out)
{
    PHX_TRY(phx_json_require(json, key));
    return phx_json_string(json, key, out);
}

static enum phx_status required_bool(const struct phx_json *json, const char *key, bool *out)
{
    PHX_TRY(phx_json_require(json, key));
    return phx_json_bool(json, key, out);
}

static enum phx_status required_character(const struct phx_json *json, const char *key,
                                          const char **out)
{
    PHX_TRY(required_string(json, key, out));
    if (**out && phx_utf8_bytes(*out) == strlen(*out)) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: %s%s is \"%s\"; it must be one character", json->file,
                    json->prefix, key, *out);
}

/* {"String": "..."} or {"Regex": "..."} */
static enum phx_status parse_pattern(const struct phx_json *json, struct phx_pattern **out)
{
    const json_t *object = NULL;
    PHX_TRY(phx_json_require(json, "pattern"));
    PHX_TRY(phx_json_object(json, "pattern", &object));
    struct phx_json inner = {json->file, "pattern.", object};
    const char *literal = NULL, *regex = NULL;
    PHX_TRY(phx_json_string(&inner, "String", &literal));
    PHX_TRY(phx_json_string(&inner, "Regex", &regex));
    if (!literal == !regex) {
        return phx_fail(PHX_BAD_DATA, "%s: %spattern must hold either a String or a Regex",
                        json->file, json->prefix);
    }
    return literal ? phx_pattern_create_literal(json->file, literal, out)
                   : phx_pattern_create_regex(json->file, regex, out);
}

static enum phx_status add_split(const struct target *t, const char *regex, enum phx_split behavior,
                                 bool invert)
{
    struct phx_step *step;
    PHX_TRY(add_step(t, PHX_STEP_SPLIT, &step));
    step->behavior = behavior;
    step->invert = invert;
    return phx_pattern_create_regex(t->file, regex, &step->pattern);
}

static enum phx_status parse_behavior(const struct phx_json *json, enum phx_split *out)
{
    static const char *const names[] = {
        [PHX_REMOVED] = "Removed",
        [PHX_ISOLATED] = "Isolated",
        [PHX_WITH_PREVIOUS] = "MergedWithPrevious",
        [PHX_WITH_NEXT] = "MergedWithNext",
        [PHX_CONTIGUOUS] = "Contiguous",
    };
    const char *name = names[*out];
    PHX_TRY(phx_json_string(json, "behavior", &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (enum phx_split)i;
        return PHX_OK;
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: %sbehavior is \"%s\"; it must be Removed, Isolated, MergedWithPrevious, "
                    "MergedWithNext or Contiguous",
                    json->file, json->prefix, name);
}

/* Normalizers. */

static enum phx_status parse_form(const struct target *t, const struct phx_json *json)
{
    (void)json;
    struct phx_step *step;
    PHX_TRY(add_step(t, PHX_STEP_FORM, &step));
    step->form = (enum phx_form)t->variant;
    return PHX_OK;
}

/* Lowercase, ByteLevel: nothing but their kind. */
static enum phx_status parse_plain(const struct target *t, const struct phx_json *json)
{
    (void)json;
    struct phx_step *step;
    return add_step(t, (enum phx_step_kind)t->variant, &step);
}

static enum phx_status parse_trim(const struct target *t, const struct phx_json *json)
{
    struct phx_step *step;
    PHX_TRY(add_step(t, PHX_STEP_TRIM, &step));
    PHX_TRY(required_bool(json, "strip_left", &step->trim_left));
    return required_bool(json, "strip_right", &step->trim_right);
}

static enum phx_status parse_prepend(const struct target *t, const struct phx_json *json)
{
    const char *content = NULL;
    struct phx_step *step;
    PHX_TRY(required_string(json, "prepend", &content));
    PHX_TRY(add_step(t, PHX_STEP_PREPEND, &step));
    return copy_text(t, content, &step->content);
}

static enum phx_status parse_replace(const struct target *t, const struct phx_json *json)
{
    const char *content = NULL;
    struct phx_step *step;
    PHX_TRY(required_string(json, "content", &content));
    PHX_TRY(add_step(t, PHX_STEP_REPLACE, &step));
    PHX_TRY(copy_text(t, content, &step->content));
    return parse_pattern(json, &step->pattern);
}

static enum phx_status parse_precompiled(const struct target *t, const struct phx_json *json)
{
    const char *text = NULL;
    struct phx_step *step;
    struct phx_bytes map = {0};
    enum phx_status status;
    PHX_TRY(required_string(json, "precompiled_charsmap", &text));
    PHX_TRY(add_step(t, PHX_STEP_MAP, &step));
    step->rules = calloc(1, sizeof *step->rules);
    if (!step->rules) {
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a component", t->file);
    }
    PHX_TRY_GOTO(phx_base64_decode(t->file, text, &map), done);
    PHX_TRY_GOTO(phx_charsmap_create(t->file, map.data, map.n, &step->rules->map), done);
done:
    free(map.data);
    return status;
}

/* Pre-tokenizers. */

static enum phx_status parse_byte_level(const struct target *t, const struct phx_json *json)
{
    bool adds_space = false, use_regex = true;
    struct phx_step *step;
    PHX_TRY(required_bool(json, "add_prefix_space", &adds_space));
    PHX_TRY(phx_json_bool(json, "use_regex", &use_regex));
    if (adds_space) {
        PHX_TRY(add_step(t, PHX_STEP_PREPEND, &step));
        step->unless_there = true;
        PHX_TRY(copy_text(t, " ", &step->content));
    }
    if (use_regex) PHX_TRY(add_split(t, GPT2_WORDS, PHX_ISOLATED, false));
    return add_step(t, PHX_STEP_CHARACTERS, &step);
}

struct metaspace {
    const char *replacement;
    bool prepends, first_only, split;
};

static enum phx_status read_metaspace(const struct phx_json *json, struct metaspace *out)
{
    const char *scheme = NULL;
    bool adds_space = true; /* how older files say it */
    *out = (struct metaspace){.split = true};
    PHX_TRY(required_character(json, "replacement", &out->replacement));
    PHX_TRY(phx_json_string(json, "prepend_scheme", &scheme));
    PHX_TRY(phx_json_bool(json, "add_prefix_space", &adds_space));
    PHX_TRY(phx_json_bool(json, "split", &out->split));
    if (!scheme) scheme = adds_space ? "always" : "never";
    out->first_only = strcmp(scheme, "first") == 0;
    out->prepends = out->first_only || strcmp(scheme, "always") == 0;
    if (!out->prepends && strcmp(scheme, "never") != 0) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: %sprepend_scheme is \"%s\"; it must be always, first or never",
                        json->file, json->prefix, scheme);
    }
    if (out->prepends && !adds_space) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: %sprepend_scheme is \"%s\", but add_prefix_space is false", json->file,
                        json->prefix, scheme);
    }
    return PHX_OK;
}

static enum phx_status parse_metaspace(const struct target *t, const struct phx_json *json)
{
    struct metaspace space;
    struct phx_step *step;
    PHX_TRY(read_metaspace(json, &space));
    PHX_TRY(add_step(t, PHX_STEP_REPLACE, &step));
    PHX_TRY(copy_text(t, space.replacement, &step->content));
    PHX_TRY(phx_pattern_create_literal(t->file, " ", &step->pattern));
    if (space.prepends) {
        PHX_TRY(add_step(t, PHX_STEP_PREPEND, &step));
        step->unless_there = true;
        step->first_only = space.first_only;
        PHX_TRY(copy_text(t, space.replacement, &step->content));
    }
    if (!space.split) return PHX_OK;
    PHX_TRY(add_step(t, PHX_STEP_SPLIT, &step));
    step->behavior = PHX_WITH_NEXT;
    return phx_pattern_create_literal(t->file, space.replacement, &step->pattern);
}

static enum phx_status parse_split(const struct target *t, const struct phx_json *json)
{
    struct phx_step *step;
    PHX_TRY(add_step(t, PHX_STEP_SPLIT, &step));
    PHX_TRY(phx_json_require(json, "behavior"));
    PHX_TRY(parse_behavior(json, &step->behavior));
    PHX_TRY(required_bool(json, "invert", &step->invert));
    return parse_pattern(json, &step->pattern);
}

static enum phx_status parse_digits(const struct target *t, const struct phx_json *json)
{
    bool each = false;
    PHX_TRY(required_bool(json, "individual_digits", &each));
    return add_split(t, "\\p{N}", each ? PHX_ISOLATED : PHX_CONTIGUOUS, false);
}

static enum phx_status parse_punctuation(const struct target *t, const struct phx_json *json)
{
    enum phx_split behavior = PHX_ISOLATED;
    PHX_TRY(parse_behavior(json, &behavior));
    return add_split(t, "[" ASCII_PUNCTUATION "\\p{P}]", behavior, false);
}

static enum phx_status parse_whitespace(const struct target *t, const struct phx_json *json)
{
    (void)json;
    return add_split(t, "[" WORD "]+|[^" WORD "\\s]+", PHX_REMOVED, true);
}

static enum phx_status parse_whitespace_split(const struct target *t, const struct phx_json *json)
{
    (void)json;
    return add_split(t, "\\s", PHX_REMOVED, false);
}

/* Decoders. */

static enum phx_status parse_stage(const struct target *t, const struct phx_json *json)
{
    (void)json;
    struct phx_stage *stage;
    return add_stage(t, (enum phx_stage_kind)t->variant, &stage);
}

static enum phx_status parse_metaspace_stage(const struct target *t, const struct phx_json *json)
{
    struct metaspace space;
    struct phx_stage *stage;
    PHX_TRY(read_metaspace(json, &space));
    PHX_TRY(add_stage(t, PHX_STAGE_METASPACE, &stage));
    stage->drop_first = space.prepends;
    return copy_text(t, space.replacement, &stage->content);
}

static enum phx_status parse_replace_stage(const struct target *t, const struct phx_json *json)
{
    const char *content = NULL;
    struct phx_stage *stage;
    PHX_TRY(required_string(json, "content", &content));
    PHX_TRY(add_stage(t, PHX_STAGE_REPLACE, &stage));
    PHX_TRY(copy_text(t, content, &stage->content));
    return parse_pattern(json, &stage->pattern);
}

static enum phx_status parse_strip_stage(const struct target *t, const struct phx_json *json)
{
    const char *content = NULL;
    struct phx_stage *stage;
    PHX_TRY(required_character(json, "content", &content));
    PHX_TRY(phx_json_require(json, "start"));
    PHX_TRY(phx_json_require(json, "stop"));
    PHX_TRY(add_stage(t, PHX_STAGE_STRIP, &stage));
    PHX_TRY(phx_json_int(json, "start", 0, INT32_MAX, &stage->start));
    PHX_TRY(phx_json_int(json, "stop", 0, INT32_MAX, &stage->stop));
    return copy_text(t, content, &stage->content);
}

static const struct component normalizers[] = {
    {"NFC", parse_form, PHX_NFC},
    {"NFD", parse_form, PHX_NFD},
    {"NFKC", parse_form, PHX_NFKC},
    {"NFKD", parse_form, PHX_NFKD},
    {"Lowercase", parse_plain, PHX_STEP_LOWERCASE},
    {"ByteLevel", parse_plain, PHX_STEP_CHARACTERS},
    {"Strip", parse_trim, 0},
    {"Prepend", parse_prepend, 0},
    {"Replace", parse_replace, 0},
    {"Precompiled", parse_precompiled, 0},
};

static const struct component pre_tokenizers[] = {
    {"ByteLevel", parse_byte_level, 0},
    {"Metaspace", parse_metaspace, 0},
    {"Split", parse_split, 0},
    {"Digits", parse_digits, 0},
    {"Punctuation", parse_punctuation, 0},
    {"Whitespace", parse_whitespace, 0},
    {"WhitespaceSplit", parse_whitespace_split, 0},
};

static const struct component decoders[] = {
    {"ByteLevel", parse_stage, PHX_STAGE_BYTE_LEVEL},
    {"ByteFallback", parse_stage, PHX_STAGE_BYTE_FALLBACK},
    {"Fuse", parse_stage, PHX_STAGE_FUSE},
    {"Metaspace", parse_metaspace_stage, 0},
    {"Replace", parse_replace_stage, 0},
    {"Strip", parse_strip_stage, 0},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct family normalizer_family = {"normalizer", "normalizers", normalizers,
                                                COUNT(normalizers)};
static const struct family pre_tokenizer_family = {"pre_tokenizer", "pretokenizers", pre_tokenizers,
                                                   COUNT(pre_tokenizers)};
static const struct family decoder_family = {"decoder", "decoders", decoders, COUNT(decoders)};

static enum phx_status refuse_type(const struct target *t, const char *type)
{
    char known[256] = "Sequence";
    for (size_t i = 0, n = strlen(known); i < t->family->n; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, ", %s", t->family->components[i].type);
    }
    return phx_fail(PHX_UNSUPPORTED, "%s: a %s of type %s is not supported; known are %s", t->file,
                    t->family->name, type, known);
}

static enum phx_status parse_component(const struct target *t, const json_t *value)
{
    const struct family *family = t->family;
    if (!value || json_is_null(value)) return PHX_OK;
    if (!json_is_object(value)) {
        char text[PHX_JSON_TEXT_BYTES];
        return phx_fail(PHX_BAD_DATA, "%s: %s is %s; it must be an object {...}", t->file,
                        family->name, phx_json_text(value, text));
    }
    char prefix[64];
    struct phx_json json = {t->file, prefix, value};
    const char *type = NULL;
    snprintf(prefix, sizeof prefix, "%s.", family->name);
    PHX_TRY(required_string(&json, "type", &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL;
        PHX_TRY(phx_json_require(&json, family->list_key));
        PHX_TRY(phx_json_array(&json, family->list_key, &list));
        for (size_t i = 0; i < json_array_size(list); i++) {
            PHX_TRY(parse_component(t, json_array_get(list, i)));
        }
        return PHX_OK;
    }
    for (size_t i = 0; i < family->n; i++) {
        const struct component *component = &family->components[i];
        if (strcmp(component->type, type) != 0) continue;
        snprintf(prefix, sizeof prefix, "%s %s: ", family->name, type);
        struct target one = *t;
        one.variant = component->variant;
        return component->parse(&one, &json);
    }
    return refuse_type(t, type);
}

enum phx_status phx_normalizer_parse(const char *file, const json_t *json, struct phx_steps *steps)
{
    return parse_component(
        &(struct target){.file = file, .family = &normalizer_family, .steps = steps}, json);
}

enum phx_status phx_pre_tokenizer_parse(const char *file, const json_t *json,
                                        struct phx_steps *steps)
{
    return parse_component(
        &(struct target){.file = file, .family = &pre_tokenizer_family, .steps = steps}, json);
}

/* A stage that needs whole tokens would have to wait for the end of the text. */
static enum phx_status check_stages(const char *file, const struct phx_decoder *decoder)
{
    bool joined = false;
    if (decoder->n > MAX_STAGES) {
        return phx_fail(PHX_UNSUPPORTED, "%s: %zu decoders in a row; at most %d are supported",
                        file, decoder->n, MAX_STAGES);
    }
    for (size_t i = 0; i < decoder->n; i++) {
        const struct phx_stage *stage = &decoder->data[i];
        bool byte_level = stage->kind == PHX_STAGE_BYTE_LEVEL;
        bool fallback = stage->kind == PHX_STAGE_BYTE_FALLBACK;
        bool regex = stage->kind == PHX_STAGE_REPLACE && !phx_pattern_literal(stage->pattern);
        if (joined && (byte_level || fallback || regex)) {
            return phx_fail(PHX_UNSUPPORTED,
                            "%s: a decoder of type %s after one that joins all tokens (Fuse, "
                            "ByteLevel) is not supported",
                            file,
                            byte_level ? "ByteLevel"
                            : fallback ? "ByteFallback"
                                       : "Replace with a Regex");
        }
        joined |= byte_level || stage->kind == PHX_STAGE_FUSE;
    }
    return PHX_OK;
}

enum phx_status phx_decoder_parse(const char *file, const json_t *json, struct phx_decoder *decoder)
{
    struct target target = {.file = file, .family = &decoder_family, .decoder = decoder};
    PHX_TRY(parse_component(&target, json));
    if (!json || json_is_null(json)) {
        struct phx_stage *stage;
        return add_stage(&target, PHX_STAGE_SPACES, &stage);
    }
    return check_stages(file, decoder);
}
