#include "launch/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "launch/int_range.h"
#include "launch/nearest.h"
#include "launch/options_table.h"
#include "runtime/tokenizer/unicode.h"

/// Where a value came from, for sentences, and where it goes.
struct target {
    struct phx_options *options;
    const struct phx_option_row *row;
    const char *flag; ///< as the user wrote it
    int most;         ///< values that a list may come to hold
};

static void *field(const struct target *to)
{
    return (char *)to->options + to->row->field;
}

static bool is_given(const struct phx_options *options, const struct phx_option_row *row)
{
    size_t bit = (size_t)(row - phx_option_rows);
    return options->given[bit / 64] >> bit % 64 & 1;
}

static enum phx_status must_be(const struct target *to, const char *text, const char *what)
{
    return phx_fail(PHX_USAGE, "%s %.100s: must be %s", to->flag, text, what);
}

static enum phx_status must_not_be_empty(const struct target *to)
{
    return phx_fail(PHX_USAGE, "%s: must not be empty", to->flag);
}

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the command line");
}

static enum phx_status out_of_range(const struct target *to, const char *text, bool too_small)
{
    const struct phx_option_row *row = to->row;
    char what[128];
    if (isfinite(row->min) && isfinite(row->max) && row->max < INT32_MAX) {
        snprintf(what, sizeof what, "in %c%.15g, %.15g]", row->above_min ? '(' : '[', row->min,
                 row->max);
    } else if (too_small) {
        snprintf(what, sizeof what, row->above_min ? "more than %.15g" : "%.15g or more", row->min);
    } else {
        snprintf(what, sizeof what, "at most %.15g", row->max);
    }
    return must_be(to, text, what);
}

/// A whole number that fills `text` up to `end`.
static enum phx_status read_int(const struct target *to, const char *text, const char *end,
                                int64_t *out)
{
    char *stop;
    errno = 0;
    long long value = strtoll(text, &stop, 10);
    if (text == end || stop != end || isspace((unsigned char)*text)) {
        return must_be(to, text, "a whole number");
    }
    if ((double)value < to->row->min || (errno == ERANGE && value < 0)) {
        return out_of_range(to, text, true);
    }
    if (errno == ERANGE && isinf(to->row->max)) return must_be(to, text, "less than 2^63");
    if ((double)value > to->row->max) return out_of_range(to, text, false);
    *out = value;
    return PHX_OK;
}

/// A finite decimal number that fills `text`.
static bool is_number(const char *text, double *out)
{
    char *stop;
    if (strspn(text, "0123456789+-.eE") != strlen(text)) return false;
    *out = strtod(text, &stop);
    return stop != text && *stop == '\0' && isfinite(*out);
}

static enum phx_status read_number(const struct target *to, const char *text, double *out)
{
    const struct phx_option_row *row = to->row;
    double value;
    if (!is_number(text, &value)) return must_be(to, text, "a number");
    /* Such values go to the devices in single precision. */
    if (isinf((float)value) || (value != 0 && (float)value == 0))
        return must_be(to, text, "a number of single precision, 1.4e-45 to 3.4e38 in size");
    bool too_small = row->above_min ? value <= row->min : value < row->min;
    if (too_small || value > row->max) return out_of_range(to, text, too_small);
    *out = value;
    return PHX_OK;
}

static enum phx_status read_bool(const struct target *to, const char *text, bool *out)
{
    static const char *const words[][2] = {
        {"", "1"}, {"0", "1"}, {"false", "true"}, {"off", "on"}, {"no", "yes"},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        for (int yes = 0; yes <= 1; yes++) {
            if (strcasecmp(text, words[i][yes]) != 0) continue;
            *out = yes;
            return PHX_OK;
        }
    }
    return must_be(to, text, "yes, on, true or 1, or no, off, false or 0");
}

static enum phx_status read_choice(const struct target *to, const char *text, int *out)
{
    const char *const *choices = to->row->choices;
    char what[128] = "";
    size_t used = 0;
    for (int i = 0; i < PHX_OPTION_CHOICES && choices[i]; i++) {
        if (!strcmp(text, choices[i])) {
            *out = i;
            return PHX_OK;
        }
        bool last = i + 1 == PHX_OPTION_CHOICES || !choices[i + 1];
        const char *glue = i == 0 ? "" : last ? " or " : ", ";
        used += (size_t)snprintf(what + used, sizeof what - used, "%s%s", glue, choices[i]);
        PHX_ASSERT(used < sizeof what);
    }
    return must_be(to, text, what);
}

static enum phx_status read_ids(const struct target *to, const char *text, struct phx_id_list *out)
{
    size_t n = 1;
    for (const char *c = text; *c; c++) n += *c == ',';
    int32_t *items = malloc(n * sizeof *items);
    if (!items) return no_memory();
    free(out->items);
    *out = (struct phx_id_list){.items = items, .n = n};
    const char *rest = text;
    for (size_t i = 0; i < n; i++) {
        size_t length = strcspn(rest, ",");
        int64_t id;
        if (read_int(to, rest, rest + length, &id)) {
            return must_be(to, text, "token ids with commas between them, like 1,2,3");
        }
        items[i] = (int32_t)id;
        rest += length + 1;
    }
    return PHX_OK;
}

static enum phx_status add_text(const struct target *to, const char *text,
                                struct phx_text_list *list)
{
    if (*text == '\0') return must_not_be_empty(to);
    size_t valid = phx_utf8_valid(text, strlen(text));
    if (text[valid] != '\0') {
        return phx_fail(PHX_USAGE, "%s: is not valid UTF-8: byte 0x%02x at offset %zu", to->flag,
                        (unsigned char)text[valid], valid);
    }
    if (!list->items) list->items = calloc((size_t)to->most, sizeof *list->items);
    if (!list->items) return no_memory();
    list->items[list->n++] = text;
    return PHX_OK;
}

/// ID(+|-)VALUE, as llama.cpp has it.
static enum phx_status add_bias(const struct target *to, const char *text,
                                struct phx_bias_list *list)
{
    static const char form[] = "a token id, + or -, and a number or -inf, like 29-1.5";
    int64_t id;
    double value;
    size_t digits = strspn(text, "0123456789");
    const char *sign = text + digits;
    if (digits == 0 || (*sign != '+' && *sign != '-')) return must_be(to, text, form);
    PHX_TRY(read_int(to, text, sign, &id));
    if (!strcmp(sign, "-inf")) {
        value = -INFINITY;
    } else if (!is_number(sign, &value) || isinf((float)value)) {
        return must_be(to, text, form);
    }
    for (size_t i = 0; i < list->n; i++) {
        if (list->items[i].id == id) return must_be(to, text, "the only bias of its token");
    }
    if (list->n == PHX_MAX_BIAS) {
        return phx_fail(PHX_USAGE, "%s: given more than %d times", to->flag, PHX_MAX_BIAS);
    }
    if (!list->items) list->items = calloc((size_t)to->most, sizeof *list->items);
    if (!list->items) return no_memory();
    list->items[list->n++] = (struct phx_logit_bias){.id = (int32_t)id, .value = (float)value};
    return PHX_OK;
}

enum { MAX_INTS = 1024 }; /* in a list */

static enum phx_status add_range(const struct target *to, const struct phx_int_range *range,
                                 struct phx_int_list *list)
{
    char number[32];
    for (int64_t i = range->first; i <= range->last; i = phx_int_range_next(range, i)) {
        snprintf(number, sizeof number, "%lld", (long long)i);
        if ((double)i < to->row->min || (double)i > to->row->max)
            return out_of_range(to, number, (double)i < to->row->min);
        if (list->n == MAX_INTS)
            return phx_fail(PHX_USAGE, "%s: more than %d numbers", to->flag, MAX_INTS);
        if (!list->items) list->items = calloc(MAX_INTS, sizeof *list->items);
        if (!list->items) return no_memory();
        list->items[list->n++] = (int32_t)i;
    }
    return PHX_OK;
}

static enum phx_status add_ints(const struct target *to, const char *text,
                                struct phx_int_list *list)
{
    if (!is_given(to->options, to->row)) list->n = 0; /* the defaults */
    for (const char *at = text;; at++) {
        struct phx_int_range range;
        size_t bytes = strcspn(at, ",");
        if (!phx_int_range_read(at, bytes, &range))
            return must_be(to, text,
                           "numbers and ranges with commas between them, like 1,2,8-64*2");
        if (!phx_int_range_rises(&range))
            return must_be(to, text, "ranges that rise to their ends");
        PHX_TRY(add_range(to, &range, list));
        at += bytes;
        if (*at == '\0') return PHX_OK;
    }
}

static enum phx_status add_pair(const struct target *to, const char *text,
                                struct phx_pair_list *list)
{
    const char *comma = strchr(text, ',');
    int64_t first, second;
    if (comma == NULL) return must_be(to, text, "two numbers, like 512,128");
    PHX_TRY(read_int(to, text, comma, &first));
    PHX_TRY(read_int(to, comma + 1, comma + strlen(comma), &second));
    if (!list->items) list->items = calloc((size_t)to->most, sizeof *list->items);
    if (!list->items) return no_memory();
    list->items[list->n++] = (struct phx_int_pair){(int32_t)first, (int32_t)second};
    return PHX_OK;
}

static enum phx_status set_value(const struct target *to, const char *text)
{
    int64_t whole = 0;
    int index;
    switch (to->row->kind) {
    case PHX_VALUE_FLAG:
        return read_bool(to, text, field(to));
    case PHX_VALUE_NUMBER:
        return read_number(to, text, field(to));
    case PHX_VALUE_CHOICE:
        return read_choice(to, text, field(to));
    case PHX_VALUE_TEXTS:
        return add_text(to, text, field(to));
    case PHX_VALUE_IDS:
        return read_ids(to, text, field(to));
    case PHX_VALUE_BIASES:
        return add_bias(to, text, field(to));
    case PHX_VALUE_INTS:
        return add_ints(to, text, field(to));
    case PHX_VALUE_PAIRS:
        return add_pair(to, text, field(to));
    case PHX_VALUE_INT:
        PHX_TRY(read_int(to, text, text + strlen(text), &whole));
        *(int32_t *)field(to) = (int32_t)whole;
        return PHX_OK;
    case PHX_VALUE_LONG:
        return read_int(to, text, text + strlen(text), field(to));
    case PHX_VALUE_NAME:
        if (*text == '\0') return must_not_be_empty(to);
        if (to->row->choices[0]) PHX_TRY(read_choice(to, text, &index));
        *(const char **)field(to) = text;
        return PHX_OK;
    }
    PHX_ASSERT(!"a kind of value without a reader");
    return PHX_OK;
}

static enum phx_status give(const struct target *to, const char *text)
{
    PHX_TRY(set_value(to, text));
    size_t bit = (size_t)(to->row - phx_option_rows);
    to->options->given[bit / 64] |= UINT64_C(1) << bit % 64;
    return PHX_OK;
}

static enum phx_status set_defaults(struct phx_options *options)
{
    PHX_ASSERT(phx_n_option_rows <= 8 * sizeof options->given); /* its bits */
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        struct target to = {.options = options, .row = row, .flag = row->names[0]};
        if (row->fallback) PHX_TRY(set_value(&to, row->fallback));
    }
    return PHX_OK;
}

static enum phx_status read_environment(struct phx_options *options,
                                        char *(*look_up)(const char *name))
{
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        if (!row->env || !phx_option_taken(row, options->verb)) continue;
        const char *text = look_up(row->env);
        struct target to = {.options = options, .row = row, .flag = row->env};
        if (text) PHX_TRY(give(&to, text));
    }
    return PHX_OK;
}

static enum phx_status unknown_flag(const struct phx_options *options, const char *flag,
                                    size_t bytes)
{
    const char *verb = phx_verb_name(options->verb);
    const struct phx_option_row *row = phx_option_find(flag, bytes);
    if (row) {
        enum phx_verb taker = 0;
        while (!phx_option_taken(row, taker)) taker++;
        return phx_fail(PHX_USAGE, "%.*s: not an option of %s but of %s", (int)bytes, flag, verb,
                        phx_verb_name(taker));
    }
    if (*flag != '-') {
        return phx_fail(PHX_USAGE, "%.100s: not an option of %s; a text is given with %s", flag,
                        verb, options->verb == PHX_VERB_PERPLEXITY ? "-f FILE" : "-p TEXT");
    }
    struct phx_nearest nearest = {0};
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        if (!phx_option_taken(&phx_option_rows[i], options->verb)) continue;
        for (int j = 0; j < PHX_OPTION_NAMES && phx_option_rows[i].names[j]; j++) {
            phx_nearest_consider(&nearest, flag, bytes, phx_option_rows[i].names[j]);
        }
    }
    const char *name = nearest.name;
    return phx_fail(PHX_USAGE, "%.*s: no such option%s%s; phalanx help %s lists them",
                    bytes < 100 ? (int)bytes : 100, flag, name ? ", did you mean " : "",
                    name ? name : "", verb);
}

/// The row of this name that the verb takes: verbs may give one name different meanings.
static const struct phx_option_row *find_taken(enum phx_verb verb, const char *name, size_t bytes)
{
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        for (int j = 0; j < PHX_OPTION_NAMES && row->names[j]; j++)
            if (phx_option_taken(row, verb) && strlen(row->names[j]) == bytes &&
                !memcmp(row->names[j], name, bytes))
                return row;
    }
    return NULL;
}

/// Take the option at argv[at], and its value; *out_next is where to go on.
static enum phx_status read_option(struct phx_options *options, int argc, char *const *argv, int at,
                                   int *out_next)
{
    const char *flag = argv[at];
    size_t bytes = strcspn(flag, "=");
    const char *text = flag[bytes] == '=' ? flag + bytes + 1 : NULL;
    const struct phx_option_row *row = find_taken(options->verb, flag, bytes);
    if (!row) return unknown_flag(options, flag, bytes);

    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)bytes, flag);
    struct target to = {.options = options, .row = row, .flag = name, .most = argc};
    *out_next = at + 1;
    if (row->kind == PHX_VALUE_FLAG) return give(&to, text ? text : "yes");
    if (text) return give(&to, text);
    if (at + 1 == argc) return phx_fail(PHX_USAGE, "%s: needs a value, %s", name, row->value);
    text = argv[at + 1];
    if (phx_option_find(text, strlen(text))) {
        return phx_fail(PHX_USAGE, "%s: needs a value before %s (if that is the value: %s=%s)",
                        name, text, name, text);
    }
    *out_next = at + 2;
    return give(&to, text);
}

/// What no single option can tell.
static enum phx_status check_together(const struct phx_options *o)
{
    static const char *const sources[] = {"--prompt", "--file", "--prompts", "--prompt-ids",
                                          "--ids"};
    const char *source = NULL;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        if (!phx_options_given(o, sources[i])) continue;
        if (source) {
            return phx_fail(PHX_USAGE, "%s and %s: give the text in one way only", source,
                            sources[i]);
        }
        source = sources[i];
    }
    if (o->verb == PHX_VERB_GENERATE && o->logprobs >= 0 && !o->json)
        return phx_fail(PHX_USAGE, "--logprobs goes into the JSON: give --json too");
    /* What a request must hold too (runtime/request.h), but there nobody knows the flag. */
    if (o->temperature != 0 && (float)o->temperature < 1e-6f)
        return phx_fail(PHX_USAGE, "--temp %g: must be 0, or 0.000001 or more", o->temperature);
    if (o->api_key && o->api_key_file)
        return phx_fail(PHX_USAGE, "--api-key and --api-key-file: give one of them");
    if (!o->ssl_certfile != !o->ssl_keyfile)
        return phx_fail(PHX_USAGE, "--ssl-certfile and --ssl-keyfile: give both, or none");
    if (o->brief && o->heads)
        return phx_fail(PHX_USAGE, "--brief shows no single heads: leave out --heads or --brief");
    const char *single = o->logits_out ? "--logits-out" : o->force_ids.n ? "--force-ids" : NULL;
    if (single && (o->prompts.n > 1 || o->prompts_file)) {
        return phx_fail(PHX_USAGE, "%s: needs a single prompt (-p, -f or --prompt-ids)", single);
    }
    if (o->window > 0 && o->stride > o->window) {
        return phx_fail(PHX_USAGE, "--stride %d: must be at most the window, %d", o->stride,
                        o->window);
    }
    bool plans = o->verb == PHX_VERB_PLAN;
    int32_t n_seqs = plans ? o->batch : o->max_seqs;
    bool takes_seqs = plans || o->verb == PHX_VERB_GENERATE || o->verb == PHX_VERB_PERPLEXITY;
    if (takes_seqs && o->max_batched_tokens != 0 && o->max_batched_tokens < n_seqs) {
        return phx_fail(PHX_USAGE,
                        "%s %d takes as many tokens a step, and --max-num-batched-tokens is %d: "
                        "raise that or lower this",
                        plans ? "--batch" : "--max-num-seqs", n_seqs, o->max_batched_tokens);
    }
    return PHX_OK;
}

static bool is_one_of(const char *text, const char *a, const char *b)
{
    return !strcmp(text, a) || !strcmp(text, b);
}

static enum phx_status read_verb(const char *text, enum phx_verb *out)
{
    if (is_one_of(text, "--help", "-h")) text = phx_verb_name(PHX_VERB_HELP);
    if (!strcmp(text, "--version")) text = phx_verb_name(PHX_VERB_VERSION);
    struct phx_nearest nearest = {0};
    for (enum phx_verb verb = 0; verb < PHX_VERB_COUNT; verb++) {
        const char *name = phx_verb_name(verb);
        if (!strcmp(text, name)) {
            *out = verb;
            return PHX_OK;
        }
        phx_nearest_consider(&nearest, text, strlen(text), name);
    }
    if (phx_option_find(text, strcspn(text, "="))) {
        return phx_fail(PHX_USAGE, "%.100s: first say what to do, as in: phalanx generate %.100s",
                        text, text);
    }
    return phx_fail(PHX_USAGE, "%.100s: no such verb%s%s; phalanx help lists them", text,
                    nearest.name ? ", did you mean " : "", nearest.name ? nearest.name : "");
}

static enum phx_status parse(struct phx_options *options, int argc, char *const *argv,
                             char *(*look_up)(const char *name))
{
    PHX_TRY(set_defaults(options));
    if (argc < 2) return phx_fail(PHX_USAGE, "say what to do; phalanx help lists what there is");
    PHX_TRY(read_verb(argv[1], &options->verb));
    options->help_about = PHX_VERB_HELP;
    if (!phx_verb_rows[options->verb].usage) {
        bool about = options->verb == PHX_VERB_HELP && argc > 2;
        return about ? read_verb(argv[2], &options->help_about) : PHX_OK;
    }
    PHX_TRY(read_environment(options, look_up));
    for (int i = 2; i < argc;) {
        if (is_one_of(argv[i], "--help", "-h")) {
            options->help_about = options->verb;
            options->verb = PHX_VERB_HELP;
            return PHX_OK;
        }
        PHX_TRY(read_option(options, argc, argv, i, &i));
    }
    return check_together(options);
}

enum phx_status phx_options_create(int argc, char *const *argv, char *(*look_up)(const char *name),
                                   struct phx_options **out)
{
    struct phx_options *options = calloc(1, sizeof *options);
    if (!options) return no_memory();
    enum phx_status status = parse(options, argc, argv, look_up);
    if (status != PHX_OK) {
        phx_options_destroy(options);
        return status;
    }
    *out = options;
    return PHX_OK;
}

void phx_options_destroy(struct phx_options *options)
{
    if (!options) return;
    free(options->prompts.items);
    free(options->prompt_ids.items);
    free(options->ids.items);
    free(options->stop.items);
    free(options->force_ids.items);
    free(options->logit_bias.items);
    struct phx_int_list *lists[] = {
        &options->bench_prompt, &options->bench_generate, &options->depth,        &options->batches,
        &options->step_tokens,  &options->part_tokens,    &options->thread_counts};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]->items);
    free(options->bench_both.items);
    free(options->tests.items);
    free(options);
}

bool phx_options_given(const struct phx_options *options, const char *name)
{
    const struct phx_option_row *row = phx_option_find(name, strlen(name));
    PHX_ASSERT(row);
    return is_given(options, row);
}
