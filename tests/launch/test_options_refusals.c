/// Command lines that are not understood: the sentence for each, and no crash on noise.
#include <stdlib.h>
#include <string.h>

#include "launch/options.h"
#include "tests/launch/command_line.h"
#include "tests/support/check.h"

static const struct {
    const char *line, *sentence;
} bad_lines[] = {
    {"genrate", "genrate: no such verb, did you mean generate; phalanx help lists them"},
    {"xyz", "xyz: no such verb; phalanx help lists them"},
    {"-p|x", "-p: first say what to do, as in: phalanx generate -p"},
    {"help|genrate", "genrate: no such verb, did you mean generate; phalanx help lists them"},
    {"generate|--promt|x",
     "--promt: no such option, did you mean --prompt; phalanx help generate lists them"},
    {"generate|--ctx=5",
     "--ctx: no such option, did you mean --ctx-size; phalanx help generate lists them"},
    {"generate|-q", "-q: no such option; phalanx help generate lists them"},
    {"generate|--", "--: no such option; phalanx help generate lists them"},
    {"generate|--window|4", "--window: not an option of generate but of perplexity"},
    {"generate|--ids=4", "--ids: not an option of generate but of tokenize"},
    {"tokenize|--temp|1", "--temp: not an option of tokenize but of generate"},
    {"generate|hello", "hello: not an option of generate; a text is given with -p TEXT"},
    {"bench|-p|1,,2",
     "-p 1,,2: must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|-p|", "-p : must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|-n|-1", "-n -1: must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|-n|1-4/2",
     "-n 1-4/2: must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|-n|1-4+",
     "-n 1-4+: must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|-d|8-4", "-d 8-4: must be ranges that rise to their ends"},
    {"bench|-d|0-4*2", "-d 0-4*2: must be ranges that rise to their ends"},
    {"bench|-d|1-4*1", "-d 1-4*1: must be ranges that rise to their ends"},
    {"bench|-d|1-4+0", "-d 1-4+0: must be ranges that rise to their ends"},
    {"bench|-d|0-2000000000", "-d: more than 1024 numbers"},
    {"bench|-r|1-3", "-r 1-3: must be a whole number"},
    {"bench|-n|3000000000",
     "-n 3000000000: must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|--batch|0-3", "--batch 0: must be in [1, 65535]"},
    {"bench|--batch|0", "--batch 0: must be in [1, 65535]"},
    {"bench|--batch|1-x",
     "--batch 1-x: must be numbers and ranges with commas between them, like 1,2,8-64*2"},
    {"bench|-pg|512", "-pg 512: must be two numbers, like 512,128"},
    {"bench|-pg|512,0", "-pg 0: must be 1 or more"},
    {"bench|-o|xml", "-o xml: must be md, csv, json or jsonl"},
    {"serve|a/model", "a/model: not an option of serve; a model is given with -m MODEL"},
    {"topology|a", "a: not an option of topology"},
    {"perplexity|a.txt", "a.txt: not an option of perplexity; a text is given with -f FILE"},
    {"audit|--json", "--json: needs a value, FILE"},
    {"audit|--heads|0|--brief", "--brief shows no single heads: leave out --heads or --brief"},
    {"audit|--against|x", "--against: not an option of audit but of compare"},
    {"generate|-p", "-p: needs a value, TEXT"},
    {"generate|-n", "-n: needs a value, N"},
    {"generate|-p|--temp|1", "-p: needs a value before --temp (if that is the value: -p=--temp)"},
    {"generate|-m|", "-m: must not be empty"},
    {"generate|-p|", "-p: must not be empty"},
    {"generate|--stop=", "--stop: must not be empty"},
    {"generate|--stop|ab\xc3|-p|x", "--stop: is not valid UTF-8: byte 0xc3 at offset 2"},
    {"generate|--stop|ab\xc3(", "--stop: is not valid UTF-8: byte 0xc3 at offset 2"},
    {"generate|-p|\xff", "-p: is not valid UTF-8: byte 0xff at offset 0"},
    {"generate|--model=", "--model: must not be empty"},
    {"generate|-n|many", "-n many: must be a whole number"},
    {"generate|-n|1.5", "-n 1.5: must be a whole number"},
    {"generate|-n|", "-n : must be a whole number"},
    {"generate|-n| 5", "-n  5: must be a whole number"},
    {"generate|-n|-2", "-n -2: must be -1 or more"},
    {"generate|-n|2147483648", "-n 2147483648: must be at most 2147483647"},
    {"generate|-n|99999999999999999999", "-n 99999999999999999999: must be at most 2147483647"},
    {"generate|-n|-99999999999999999999", "-n -99999999999999999999: must be -1 or more"},
    {"generate|-s|-2", "-s -2: must be -1 or more"},
    {"generate|-s|9223372036854775808", "-s 9223372036854775808: must be less than 2^63"},
    {"generate|--temp|-0.1", "--temp -0.1: must be 0 or more"},
    {"generate|--temp|hot", "--temp hot: must be a number"},
    {"generate|--temp|nan", "--temp nan: must be a number"},
    {"generate|--temp|inf", "--temp inf: must be a number"},
    {"generate|--temp|1e999", "--temp 1e999: must be a number"},
    {"generate|--temp|0x1", "--temp 0x1: must be a number"},
    {"generate|--temp=", "--temp : must be a number"},
    {"generate|--temp|1e39",
     "--temp 1e39: must be a number of single precision, 1.4e-45 to 3.4e38 in size"},
    {"generate|--temp|1e-30", "--temp 1e-30: must be 0, or 0.000001 or more"},
    {"generate|--temp|1e-50",
     "--temp 1e-50: must be a number of single precision, 1.4e-45 to 3.4e38 in size"},
    {"generate|--top-p|1e-50",
     "--top-p 1e-50: must be a number of single precision, 1.4e-45 to 3.4e38 in size"},
    {"generate|--repeat-penalty|1e300",
     "--repeat-penalty 1e300: must be a number of single precision, 1.4e-45 to 3.4e38 in size"},
    {"generate|--kv-cache-dtype|fp8", "--kv-cache-dtype fp8: must be auto, f32, f16 or bf16"},
    {"generate|--gpu-memory-utilization|0", "--gpu-memory-utilization 0: must be in (0, 1]"},
    {"generate|--gpu-memory-utilization|90", "--gpu-memory-utilization 90: must be in (0, 1]"},
    {"generate|--top-p|1.5", "--top-p 1.5: must be in (0, 1]"},
    {"generate|--top-p|0", "--top-p 0: must be in (0, 1]"},
    {"generate|--min-p|-1", "--min-p -1: must be in [0, 1]"},
    {"generate|--repeat-penalty|0", "--repeat-penalty 0: must be more than 0"},
    {"generate|--presence-penalty|2.1", "--presence-penalty 2.1: must be in [-2, 2]"},
    {"generate|--top-k|-1", "--top-k -1: must be 0 or more"},
    {"generate|--logprobs|21", "--logprobs 21: must be in [-1, 20]"},
    {"generate|-t|0", "-t 0: must be in [1, 4096]"},
    {"generate|-tp|0", "-tp 0: must be 1 or more"},
    {"generate|--dtype|fp8", "--dtype fp8: must be auto, float32 or bfloat16"},
    {"generate|--json=maybe", "--json maybe: must be yes, on, true or 1, or no, off, false or 0"},
    {"generate|--prompt-ids|1,,2",
     "--prompt-ids 1,,2: must be token ids with commas between them, like 1,2,3"},
    {"generate|--prompt-ids|1,-2",
     "--prompt-ids 1,-2: must be token ids with commas between them, like 1,2,3"},
    {"generate|--force-ids=",
     "--force-ids : must be token ids with commas between them, like 1,2,3"},
    {"generate|--force-ids|1,2|--force-ids|3,x",
     "--force-ids 3,x: must be token ids with commas between them, like 1,2,3"},
    {"generate|-l|29", "-l 29: must be a token id, + or -, and a number or -inf, like 29-1.5"},
    {"generate|-l|29+inf",
     "-l 29+inf: must be a token id, + or -, and a number or -inf, like 29-1.5"},
    {"generate|-l|29+1e39",
     "-l 29+1e39: must be a token id, + or -, and a number or -inf, like 29-1.5"},
    {"generate|-l|+1", "-l +1: must be a token id, + or -, and a number or -inf, like 29-1.5"},
    {"generate|-l|9999999999+1", "-l 9999999999+1: must be at most 2147483647"},
    {"generate|-l|5+1|-l|5-1", "-l 5-1: must be the only bias of its token"},
    {"generate|-p|x|-f|y", "--prompt and --file: give the text in one way only"},
    {"tokenize|-f|y|--ids|1", "--file and --ids: give the text in one way only"},
    {"generate|-p|x|-p|y|--logits-out|z",
     "--logits-out: needs a single prompt (-p, -f or --prompt-ids)"},
    {"generate|--prompts|x|--force-ids|1",
     "--force-ids: needs a single prompt (-p, -f or --prompt-ids)"},
    {"perplexity|--window|4|--stride|5", "--stride 5: must be at most the window, 4"},
    {"generate|--watchdog-timeout|-1", "--watchdog-timeout -1: must be in [0, 1000000]"},
    {"generate|--max-num-batched-tokens|4",
     "--max-num-seqs 8 takes as many tokens a step, and --max-num-batched-tokens is 4: "
     "raise that or lower this"},
};

static void test_bad_lines(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_lines / sizeof bad_lines[0]; i++) {
        struct phx_options *options = NULL;
        struct command_line line;
        command_line_split(bad_lines[i].line, &line);
        phx_fail_clear();
        enum phx_status status = phx_options_create(line.argc, line.argv, no_environment, &options);
        if (status != PHX_USAGE) fail_msg("%s: status %d", bad_lines[i].line, (int)status);
        assert_null(options);
        assert_string_equal(phx_fail_sentence(), bad_lines[i].sentence);
    }
    char *bare[] = {"phalanx", NULL};
    struct phx_options *options = NULL;
    assert_int_equal(phx_options_create(1, bare, no_environment, &options), PHX_USAGE);
    assert_string_equal(phx_fail_sentence(), "say what to do; phalanx help lists what there is");
}

static void test_too_many_biases(void **state)
{
    (void)state;
    enum { N = 1025 };
    static char texts[N][16];
    char *argv[2 + 2 * N + 1] = {"phalanx", "generate"};
    for (int i = 0; i < N; i++) {
        snprintf(texts[i], sizeof texts[i], "%d+1", i);
        argv[2 + 2 * i] = "-l";
        argv[3 + 2 * i] = texts[i];
    }
    struct phx_options *options = NULL;
    assert_int_equal(phx_options_create(2 + 2 * N, argv, no_environment, &options), PHX_USAGE);
    assert_string_equal(phx_fail_sentence(), "-l: given more than 1024 times");
    assert_int_equal(phx_options_create(2 * N, argv, no_environment, &options), PHX_OK);
    assert_int_equal(options->logit_bias.n, N - 1);
    phx_options_destroy(options);
}

static char *const words[] = {
    "generate",
    "perplexity",
    "tokenize",
    "help",
    "--help=1",
    "-p",
    "--prompt=",
    "-n",
    "5",
    "-5",
    "--",
    "-",
    "",
    "--temp",
    "1e308",
    "--temp=-1",
    "--top-p=0.5",
    "-l",
    "1+1",
    "1-inf",
    "1+",
    "--prompt-ids",
    "1,2",
    ",",
    "1,2,",
    "--stop",
    "--json",
    "--json=off",
    "--dtype",
    "auto",
    "=",
    "--=",
    "-=x",
    "--logit-bias=3-3",
    "\xff\xfe",
    "%s%n",
    "-t",
    "--threads=2",
    "--window",
    "--stride=1",
    "--ids=1",
    "-f",
    "--force-ids=7",
    "--no-bos",
    "-v",
    "-tp",
    "--a-very-long-option-name-that-nobody-would-ever-type-and-that-fits-no-small-buffer=1",
};
enum { N_WORDS = sizeof words / sizeof words[0] };

/// Whatever is typed, it is either understood or answered with a sentence.
static void test_noise(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252ull;
    int n_good = 0;
    for (int round = 0; round < 50000; round++) {
        char *argv[12] = {"phalanx"};
        int argc = 1;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        int n = (int)(x % 10);
        if (n > 0 && x >> 32 & 7) argv[argc++] = words[(x >> 40) % 3];
        while (argc < n + 1) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            argv[argc++] = words[x % N_WORDS];
        }
        argv[argc] = NULL;
        struct phx_options *options = NULL;
        phx_fail_clear();
        enum phx_status status = phx_options_create(argc, argv, no_environment, &options);
        if (status == PHX_OK) {
            n_good++;
            phx_options_destroy(options);
        } else {
            assert_int_equal(status, PHX_USAGE);
            assert_true(strlen(phx_fail_sentence()) > 10);
        }
    }
    assert_true(n_good > 500); /* the noise reaches past the first check */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_too_many_biases),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
