#include "runtime/tokenizer/gguf_pre.h"

#include <string.h>

/* The expressions are those of the tokenizer.json of the models that gave the names; llama.cpp,
 * whose expressions have no (?i:), writes them otherwise and means the same. */
#define SPLIT(regex)                                                                               \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                                          \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define LIST(...) "{\"type\":\"Sequence\",\"pretokenizers\":[" __VA_ARGS__ "]}"

#define SUFFIXES "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define WORDS(digits)                                                                              \
    SUFFIXES "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                                    \
             "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|" SPACES
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define CASED(suffixes, digits)                                                                    \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "*" LOWER "+" suffixes                                  \
    "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?" UPPER "+" LOWER "*" suffixes "|" digits                      \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|" SPACES
#define DEEPSEEK3_WORDS                                                                            \
    "[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+"                            \
    "|[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+"                                   \
    "| ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*|" SPACES
#define QWEN35_WORDS                                                                               \
    SUFFIXES "|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{L}\\\\p{M}]+|\\\\p{N}"                         \
             "| ?[^\\\\s\\\\p{L}\\\\p{M}\\\\p{N}]+[\\\\r\\\\n]*|" SPACES

#define LLAMA3 LIST(SPLIT(WORDS("\\\\p{N}{1,3}")) "," BYTES)
#define QWEN2 LIST(SPLIT(WORDS("\\\\p{N}")) "," BYTES)
#define QWEN35 LIST(SPLIT(QWEN35_WORDS) "," BYTES)
#define STARCODER LIST(DIGITS "," GPT2)
#define GPT4O LIST(SPLIT(CASED(SUFFIXES "?", "\\\\p{N}{1,3}")) "," BYTES)
#define TEKKEN LIST(SPLIT(CASED("", "\\\\p{N}")) "," BYTES)
#define DEEPSEEK3                                                                                  \
    LIST(SPLIT("\\\\p{N}{1,3}") "," SPLIT(                                                         \
        "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-"                                                  \
        "\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+") "," SPLIT(DEEPSEEK3_WORDS) "," BYTES)
#define DEEPSEEK_CODER                                                                             \
    LIST(SPLIT("[\\\\r\\\\n]") "," SPLIT("\\\\s?\\\\p{L}+") "," SPLIT(                             \
        "\\\\s?\\\\p{P}+") "," SPLIT("[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-"                     \
                                     "\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+") "," DIGITS         \
                                                                                "," BYTES)

#define NONE "{\"type\":\"Sequence\",\"normalizers\":[]}"
#define NFC "{\"type\":\"NFC\"}"

static const struct {
    const char *names; /* each ended by a space */
    struct phx_gguf_pre pre;
} table[] = {
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     {NONE, LLAMA3, true, true}},
    {"dbrx smaug-bpe glm4 chatglm-bpe ", {NONE, LLAMA3, false, false}},
    {"qwen2 deepseek-r1-qwen megrez ", {NFC, QWEN2, false, false}},
    {"stablelm2 hunyuan solar-open grok-2 ", {NONE, QWEN2, false, false}},
    {"qwen35 ", {NFC, QWEN35, false, false}},
    {"gpt-2 phi-2 mpt olmo jais trillion gigachat exaone4 mellum granite-docling ",
     {NONE, GPT2, false, false}},
    {"starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 ",
     {NONE, STARCODER, false, false}},
    {"gpt-4o llama4 kanana2 ", {NONE, GPT4O, false, false}},
    {"tekken ", {NONE, TEKKEN, true, true}},
    {"deepseek-v3 hunyuan-dense joyai-llm ", {NONE, DEEPSEEK3, false, false}},
    {"deepseek-coder ", {NONE, DEEPSEEK_CODER, false, false}},
};

bool phx_gguf_pre_find(const char *name, size_t n, struct phx_gguf_pre *out)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        for (const char *at = table[i].names; *at; at = strchr(at, ' ') + 1) {
            if (strcspn(at, " ") != n || memcmp(at, name, n) != 0) continue;
            *out = table[i].pre;
            return true;
        }
    }
    return false;
}
