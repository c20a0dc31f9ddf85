/* Who holds up a step: the sentence, for every way in which ranks can be apart. */
#include <string.h>

#include "runtime/forward.h"
#include "runtime/stall.h"
#include "tests/support/check.h"

enum { MAX_RANKS = 5, N_LAYERS = 3, SECONDS = 20 };

static const struct phx_config config = {.n_layers = N_LAYERS};

static void test_collective_names(void **state)
{
    static const struct {
        uint32_t ordinal;
        const char *name;
    } cases[] = {
        {0, "the sum of the embeddings"},
        {1, "the sum after the attention of layer 0"},
        {2, "the sum after the MLP of layer 0"},
        {5, "the sum after the attention of layer 2"},
        {6, "the sum after the MLP of layer 2"},
        {7, "the gather of the logits or their candidates"},
        {8, "the gather of the logits or their candidates"},
    };
    char name[PHX_COLLECTIVE_NAME_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        phx_forward_collective_name(&config, cases[i].ordinal, name, sizeof name);
        assert_string_equal(name, cases[i].name);
    }
    /* With norms over all heads there is one more. */
    const struct phx_config more = {.n_layers = N_LAYERS, .qk_norm_all = true};
    static const char *const of_layer[] = {"the sum after the projections of layer 1",
                                           "the sum after the attention of layer 1",
                                           "the sum after the MLP of layer 1"};
    for (uint32_t i = 0; i < 3; i++) {
        phx_forward_collective_name(&more, 4 + i, name, sizeof name);
        assert_string_equal(name, of_layer[i]);
    }
    /* The longest one fits. */
    phx_forward_collective_name(&(struct phx_config){.n_layers = 1000000000}, 1999999999, name,
                                sizeof name);
    assert_string_equal(name, "the sum after the attention of layer 999999999");
}

/* clang-format off: it would give each brace a line */
#define RUNS(r, steps, begun)                                                                      \
    {                                                                                              \
        .rank = r, .inside = true, .position = { steps, begun }                                    \
    }
#define OUTSIDE(r, steps, begun)                                                                   \
    {                                                                                              \
        .rank = r, .position = { steps, begun }                                                    \
    }
#define SILENT(r, steps, begun)                                                                    \
    {                                                                                              \
        .rank = r, .silent = true, .inside = true, .position = { steps, begun }                    \
    }
#define STARTS(r, is_silent)                                                                       \
    {                                                                                              \
        .rank = r, .starts = true, .silent = is_silent                                             \
    }
/* clang-format on */

static const struct {
    int n_ranks, world_size;
    struct phx_stall_rank ranks[MAX_RANKS];
    const char *sentence;
} cases[] = {
    {1, 1, {RUNS(0, 4, 2)}, "a step has not moved for 20 s: the device does not answer"},
    {3,
     3,
     {STARTS(0, false), STARTS(1, true), STARTS(2, false)},
     "the start has not gone on for 20 s: rank 1 does not run (is it stopped?)"},
    {3,
     3,
     {RUNS(0, 1, 1), STARTS(1, true), STARTS(2, true)},
     "the start has not gone on for 20 s: ranks 1 and 2 do not run (are they stopped?)"},
    {2,
     2,
     {RUNS(0, 17, 6), RUNS(1, 17, 5)},
     "step 17 has not moved for 20 s: rank 1 runs and is missing in the sum after the attention of "
     "layer 2"},
    {2,
     2,
     {RUNS(0, 17, 0), RUNS(1, 17, 1)},
     "step 17 has not moved for 20 s: rank 0 runs and is missing in the sum of the embeddings"},
    {3,
     3,
     {RUNS(0, 17, 8), RUNS(1, 18, 1), RUNS(2, 17, 8)},
     "step 18 has not moved for 20 s: ranks 0 and 2 run and are missing in the sum of the "
     "embeddings"},
    {5, /* one more is on its way */
     5,
     {RUNS(0, 1, 3), RUNS(1, 1, 1), RUNS(2, 1, 2), RUNS(3, 1, 1), RUNS(4, 1, 1)},
     "step 1 has not moved for 20 s: ranks 1, 3 and 4 run and are missing in the sum after the MLP "
     "of layer 0"},
    {2,
     2,
     {RUNS(0, 9, 8), RUNS(1, 9, 7)},
     "step 9 has not moved for 20 s: rank 1 runs and is missing in the gather of the logits or "
     "their candidates"},
    {2,
     2,
     {RUNS(0, 9, 4), RUNS(1, 9, 4)},
     "step 9 has not moved for 20 s: all ranks are in the sum after the attention of layer 1"},
    {2,
     2,
     {RUNS(0, 9, 0), RUNS(1, 9, 0)},
     "step 9 has not moved for 20 s: all ranks are at the start of the step"},
    {2, /* the silent one's position is an old one, or a newer one */
     2,
     {SILENT(0, 7, 2), RUNS(1, 9, 4)},
     "step 9 has not moved for 20 s: rank 0 does not run (is it stopped?) and is missing in the "
     "sum after the attention of layer 1"},
    {3,
     3,
     {RUNS(0, 9, 4), SILENT(1, 9, 5), SILENT(2, 9, 4)},
     "step 9 has not moved for 20 s: ranks 1 and 2 do not run (are they stopped?) and are missing "
     "in the sum after the attention of layer 1"},
    {3, /* the others wait for its record */
     3,
     {SILENT(0, 9, 8), OUTSIDE(1, 9, 8), OUTSIDE(2, 9, 8)},
     "step 9 has not moved for 20 s: rank 0 does not run (is it stopped?) and is missing in or "
     "past the gather of the logits or their candidates"},
    {3,
     3,
     {RUNS(0, 9, 4), RUNS(1, 9, 3), OUTSIDE(2, 9, 4)},
     "step 9 has not moved for 20 s: rank 1 runs and is missing in the sum after the attention of "
     "layer 1"},
    {2,
     2,
     {RUNS(0, 9, 3), OUTSIDE(1, 9, 4)},
     "step 9 has not moved for 20 s: rank 0 runs and is missing in or past the sum after the "
     "attention of layer 1"},
    {2,
     2,
     {RUNS(0, 9, 4), OUTSIDE(1, 9, 4)},
     "step 9 has not moved for 20 s: all ranks are in or past the sum after the attention of "
     "layer 1"},
    {2, /* two machines */
     4,
     {RUNS(2, 9, 4), RUNS(3, 9, 4)},
     "step 9 has not moved for 20 s: the ranks of this machine are in the sum after the attention "
     "of layer 1, the missing one is on another"},
    {2,
     4,
     {RUNS(2, 9, 4), RUNS(3, 9, 3)},
     "step 9 has not moved for 20 s: rank 3 runs and is missing in the sum after the attention of "
     "layer 1"},
    {2, /* counts of steps go round */
     2,
     {RUNS(0, 4294967295u, 8), RUNS(1, 0, 1)},
     "step 0 has not moved for 20 s: rank 0 runs and is missing in the sum of the embeddings"},
};

static void test_sentences(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[PHX_SENTENCE_BYTES];
        struct phx_stall stall = {&config, cases[i].ranks, cases[i].n_ranks, cases[i].world_size,
                                  SECONDS};
        phx_stall_describe(&stall, text, sizeof text);
        assert_string_equal(text, cases[i].sentence);
        /* Too little room is no harm. */
        memset(text, '#', sizeof text);
        phx_stall_describe(&stall, text, 40);
        assert_int_equal(strlen(text), 39);
        assert_memory_equal(text, cases[i].sentence, 39);
        assert_int_equal(text[40], '#');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collective_names),
        cmocka_unit_test(test_sentences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
