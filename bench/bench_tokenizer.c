/* A megabyte of text through tokenizers of 128k entries, made here: bytes per second of encoding
 * and decoding. A row is printed only if decoding gave the text back. The last three texts are
 * single words, which must not take quadratic time. Fails if a text takes two seconds or more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"
#include "runtime/tokenizer/vocabulary.h"

enum { N_TOKENS = 128000, N_WORDS = 60000, TEXT_BYTES = 1 << 20, WORD_BYTES = 96 };

static const double limit_seconds = 2.0;

/* The two ways to treat spaces that decoders have in practice. */
static const struct style {
    const char *name, *space, *components;
} styles[] = {
    {"byte-level", "\xc4\xa0",
     "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
     "{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|"
     "\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|"
     "\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
     "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
     "\"decoder\":{\"type\":\"ByteLevel\"}"},
    {"no words", "\xe2\x96\x81",
     "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
     "\"},\"content\":\"\xe2\x96\x81\"},"
     "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
     "{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"Fuse\"}]}"},
};

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The same numbers in every run. */
static uint32_t next_random(uint64_t *state, uint32_t below)
{
    *state += 0x9e3779b97f4a7c15u;
    return (uint32_t)((phx_mix64(*state) >> 32) * below >> 32);
}

/* Word `index`: syllables, more of them the rarer the word; one in fifty is a long compound. */
static size_t make_word(uint32_t index, char word[WORD_BYTES])
{
    static const char *const onsets[] = {"b", "ch", "d",  "f",  "g", "h", "k",  "l",
                                         "m", "n",  "p",  "pr", "r", "s", "sh", "st",
                                         "t", "th", "tr", "v",  "w", ""};
    static const char *const rimes[] = {"a",   "e",  "i",  "o",  "u",  "an",  "en",  "er",
                                        "ing", "on", "ou", "ea", "ed", "all", "ight"};
    uint64_t state = index;
    uint32_t n = 1 + next_random(&state, 2) + (index > 1000) + (index > 20000);
    if (next_random(&state, 50) == 0) n += 6;
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        const char *onset = onsets[next_random(&state, sizeof onsets / sizeof *onsets)];
        const char *rime = rimes[next_random(&state, sizeof rimes / sizeof *rimes)];
        bytes += (size_t)snprintf(word + bytes, WORD_BYTES - bytes, "%s%s", onset, rime);
    }
    return bytes;
}

/* A tokenizer.json as it is written, and the vocabulary that is in it so far. */
struct file {
    struct phx_bytes vocabulary, merges;
    struct phx_vocabulary known;
    char *texts[N_TOKENS];
    int32_t n;
};

static void put(struct phx_bytes *out, const char *text)
{
    PHX_ASSERT(phx_bytes_append(out, text, strlen(text)) == PHX_OK);
}

/* A token is known from now on; a text that is known already, or no room for it: false. */
static bool add_token(struct file *file, const char *text)
{
    size_t n = strlen(text);
    if (file->n == N_TOKENS || phx_vocabulary_find(&file->known, text, n) >= 0) return false;
    char *copy = strdup(text), entry[256];
    PHX_ASSERT(copy);
    const char *escape = n == 1 && strchr("\"\\", *text) ? "\\" : "";
    snprintf(entry, sizeof entry, "%s\"%s%s\":%d", file->n ? "," : "", escape, text, file->n);
    put(&file->vocabulary, entry);
    phx_vocabulary_add(&file->known, (struct phx_slice){copy, n}, file->n);
    file->texts[file->n++] = copy;
    return true;
}

/* `start` and all longer prefixes of the word that it begins, each merged from the one before and a
 * letter. */
static void add_word(struct file *file, const char *start, const char *rest)
{
    char text[WORD_BYTES + 8], merge[WORD_BYTES + 32];
    int n = snprintf(text, sizeof text, "%s", start);
    for (; *rest; rest++, n++) {
        text[n] = *rest;
        text[n + 1] = '\0';
        if (!add_token(file, text)) continue;
        snprintf(merge, sizeof merge, "%s[\"%.*s\",\"%c\"]", file->merges.n ? "," : "", n, text,
                 *rest);
        put(&file->merges, merge);
    }
}

static struct phx_tokenizer *make_tokenizer(const struct style *style)
{
    struct file *file = calloc(1, sizeof *file);
    PHX_ASSERT(file && phx_vocabulary_create(N_TOKENS, N_TOKENS, &file->known) == PHX_OK);
    for (int byte = 0; byte < 256; byte++) { /* the byte-level alphabet */
        struct phx_bytes text = {0};
        PHX_ASSERT(phx_bytes_to_characters(&(char){(char)byte}, 1, &text) == PHX_OK);
        PHX_ASSERT(phx_bytes_append(&text, "", 1) == PHX_OK);
        add_token(file, text.data);
        free(text.data);
    }
    add_token(file, style->space);
    static const char *const others[] = {"\\n", "\xd0\xb4", "\xd0\xb0", "\xe4\xbd\xa0",
                                         "\xe5\xa5\xbd"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) add_token(file, others[i]);
    for (uint32_t i = 0; i < N_WORDS; i++) {
        char word[WORD_BYTES];
        make_word(i, word);
        add_word(file, style->space, word);
        add_word(file, (char[]){word[0], '\0'}, word + 1);
    }
    struct phx_bytes json = {0};
    struct phx_tokenizer *tokenizer = NULL;
    put(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    PHX_ASSERT(phx_bytes_append(&json, file->vocabulary.data, file->vocabulary.n) == PHX_OK);
    put(&json, "},\"merges\":[");
    PHX_ASSERT(phx_bytes_append(&json, file->merges.data, file->merges.n) == PHX_OK);
    put(&json, "]},");
    put(&json, style->components);
    put(&json, "}");

    double start = seconds();
    if (phx_tokenizer_parse(style->name, json.data, json.n, &tokenizer) != PHX_OK) {
        fprintf(stderr, "%s\n", phx_fail_sentence());
        exit(EXIT_FAILURE);
    }
    printf("%s: %d tokens, %.1f MB of JSON parsed in %.2f s\n", style->name, file->n,
           1e-6 * (double)json.n, seconds() - start);
    for (int32_t i = 0; i < file->n; i++) free(file->texts[i]);
    phx_vocabulary_destroy(&file->known);
    free(file->vocabulary.data);
    free(file->merges.data);
    free(file);
    free(json.data);
    return tokenizer;
}

/* Frequent words more often, with punctuation, numbers, contractions, lines, and words of other
 * scripts. */
static void make_prose(char *text)
{
    static const char *const between[] = {" ", " ", " ", " ", " ", " ", ", ", ". ", "'s ", "\n"};
    uint64_t state = 42;
    size_t n = 0;
    while (n < TEXT_BYTES) {
        char word[2 * WORD_BYTES];
        uint32_t bits = 4 + next_random(&state, 13);
        size_t bytes = make_word(next_random(&state, 1u << bits) % N_WORDS, word);
        uint32_t kind = next_random(&state, 40);
        if (kind == 0) bytes = (size_t)sprintf(word, "%u", next_random(&state, 100000));
        if (kind == 1) bytes = (size_t)sprintf(word, "\xd0\xb4\xd0\xb0 \xe4\xbd\xa0\xe5\xa5\xbd");
        bytes += (size_t)sprintf(word + bytes, "%s", between[next_random(&state, 10)]);
        if (bytes > TEXT_BYTES - n) bytes = TEXT_BYTES - n;
        memcpy(text + n, word, bytes);
        n += bytes;
    }
    n = phx_utf8_valid(text, n);
    memset(text + n, '.', TEXT_BYTES - n);
}

static void make_letters(char *text)
{
    uint64_t state = 7;
    for (size_t i = 0; i < TEXT_BYTES; i++) text[i] = (char)('a' + next_random(&state, 26));
}

static void make_one_word(char *text)
{
    uint64_t state = 9;
    for (size_t n = 0; n < TEXT_BYTES;) {
        char word[WORD_BYTES];
        size_t bytes = make_word(next_random(&state, N_WORDS), word);
        if (bytes > TEXT_BYTES - n) bytes = TEXT_BYTES - n;
        memcpy(text + n, word, bytes);
        n += bytes;
    }
}

static void make_one_letter(char *text)
{
    memset(text, 'e', TEXT_BYTES);
}

static const struct {
    const char *name;
    void (*make)(char *text);
} texts[] = {
    {"prose", make_prose},
    {"one word", make_one_word},
    {"random letters", make_letters},
    {"one letter", make_one_letter},
};

/* False if it was too slow or wrong. */
static bool run(const struct phx_tokenizer *tokenizer, const char *name, const char *text)
{
    int32_t *ids = NULL;
    char *decoded = NULL;
    size_t n_ids = 0, decoded_bytes = 0;
    double start = seconds();
    enum phx_status status = phx_tokenizer_encode(tokenizer, text, TEXT_BYTES, false, &ids, &n_ids);
    double encoding = seconds() - start;
    start = seconds();
    if (status == PHX_OK) {
        status = phx_tokenizer_decode(tokenizer, ids, n_ids, false, &decoded, &decoded_bytes);
    }
    double decoding = seconds() - start;
    bool right =
        status == PHX_OK && decoded_bytes == TEXT_BYTES && memcmp(decoded, text, TEXT_BYTES) == 0;
    bool fast = encoding < limit_seconds;
    if (status != PHX_OK) {
        printf("  %-16s %s\n", name, phx_fail_sentence());
    } else if (!right) {
        printf("  %-16s decoding did not give the text back\n", name);
    } else {
        printf("  %-16s %8zu tokens, encode %6.3f s %7.1f MB/s, decode %6.3f s %7.1f MB/s%s\n",
               name, n_ids, encoding, 1e-6 * TEXT_BYTES / encoding, decoding,
               1e-6 * TEXT_BYTES / decoding, fast ? "" : ": too slow");
    }
    free(ids);
    free(decoded);
    return right && fast;
}

int main(void)
{
    static char text[TEXT_BYTES];
    bool good = true;
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        struct phx_tokenizer *tokenizer = make_tokenizer(&styles[i]);
        for (size_t j = 0; j < sizeof texts / sizeof *texts; j++) {
            texts[j].make(text);
            good &= run(tokenizer, texts[j].name, text);
        }
        phx_tokenizer_destroy(tokenizer);
    }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
