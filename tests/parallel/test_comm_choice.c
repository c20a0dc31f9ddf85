/* Which sums go which way, from times that might have been measured; and what memory that takes. */
#include "tests/support/check.h"

#include <string.h>

#include "parallel/comm_nccl_choice.h"

enum {
    NCCL = PHX_ALLREDUCE_NCCL,
    SYMMETRIC = PHX_ALLREDUCE_SYMMETRIC,
    FUSED = PHX_ALLREDUCE_FUSED
};

static const size_t max_bytes = (size_t)16 << 20;

static void check_choice(const struct phx_nccl_timing *timings, int n, size_t fused_bytes,
                         bool symmetric, const char *text)
{
    char told[64];
    struct phx_nccl_choice choice = phx_nccl_choose(timings, n);
    phx_nccl_describe(&choice, max_bytes, told, sizeof told);
    assert_int_equal(choice.fused_bytes, fused_bytes);
    assert_int_equal(choice.symmetric, symmetric);
    assert_string_equal(told, text);
}

/* Two H200: plain and symmetric of NCCL 2.28.3, and a prototype of the fused kernel. */
static void test_measured(void **state)
{
    (void)state;
    const struct phx_nccl_timing timings[] = {
        {8 << 10, {0, 6.6, 4.2, 2.3}},    {16 << 10, {0, 6.7, 4.4, 2.3}},
        {128 << 10, {0, 7.2, 11.0, 3.0}}, {512 << 10, {0, 9.9, 13.2, 5.3}},
        {2 << 20, {0, 26.9, 19.1, 0}},    {16 << 20, {0, 76, 79, 0}},
    };
    check_choice(timings, 6, 512 << 10, true, "fused up to 512 KB, symmetric above");
}

static void test_without(void **state)
{
    (void)state;
    struct phx_nccl_timing timings[] = {
        {1000, {0, 6.0, 0, 2.0}}, {2000, {0, 6.5, 0, 2.5}}, {3000, {0, 7.0, 0, 9.0}}};
    check_choice(timings, 3, 2000, false, "fused up to 2000 bytes, nccl above");
    timings[0].us[FUSED] = 0; /* then the larger ones are not fused either */
    check_choice(timings, 3, 0, false, "nccl");
    for (int i = 0; i < 3; i++) timings[i].us[SYMMETRIC] = 5;
    check_choice(timings, 3, 0, true, "symmetric");
    timings[1].us[SYMMETRIC] = 0;
    check_choice(timings, 3, 0, false, "nccl");
    check_choice(timings, 0, 0, false, "nccl");
}

/* One size that came out slow does not cost those above it their way. */
static void test_noise(void **state)
{
    (void)state;
    const struct phx_nccl_timing timings[] = {
        {1 << 20, {0, 6, 4, 2}}, {2 << 20, {0, 6, 4, 4.5}}, {4 << 20, {0, 8, 6, 3}}};
    check_choice(timings, 3, 4 << 20, false, "fused up to 4 MB, nccl above");
}

static void test_all_fused(void **state)
{
    (void)state;
    const struct phx_nccl_timing timings[] = {{8 << 20, {0, 6, 4, 2}}, {16 << 20, {0, 6, 4, 3}}};
    check_choice(timings, 2, max_bytes, false, "fused");
}

static void test_bytes(void **state)
{
    (void)state;
    struct phx_comm_options options = {.kind = PHX_COMM_NCCL, .max_gather_bytes = 1000};
    options.max_reduce_bytes = 64 << 20;
    const size_t mega = 1 << 20;
    /* A sum of 1 MB takes 2 MB in lines, of each rank, twice; the gathers' pieces are small. */
    assert_in_range(phx_comm_bytes(&options, 2), 8 * mega, 9 * mega);
    assert_in_range(phx_comm_bytes(&options, 8), 32 * mega, 33 * mega);
    assert_in_range(phx_comm_bytes(&options, 9), 1, mega); /* too many ranks to fuse */
    options.allreduce = PHX_ALLREDUCE_NCCL;
    assert_in_range(phx_comm_bytes(&options, 2), 1, mega);
    options.max_gather_bytes = 100 * mega;
    assert_in_range(phx_comm_bytes(&options, 3), 32 * mega, 33 * mega);
    options.kind = PHX_COMM_HOST;
    assert_int_equal(phx_comm_bytes(&options, 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured), cmocka_unit_test(test_without),
        cmocka_unit_test(test_noise),    cmocka_unit_test(test_all_fused),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests_name("choice", tests, NULL, NULL);
}
