/* All op cases on a GPU, with activations of each type, and all of them once more as graphs, whose
 * results must be the same bits. Exit status 77 without a GPU: skipped.
 * With --ops it only lists the ops; PHX_TEST_OP names the only one to run, PHX_TEST_ONCE leaves out
 * the graphs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/check.h"
#include "tests/support/op_cases.h"

enum { SKIPPED = 77 };

static struct phx_device *open_device(enum phx_dtype compute)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device *device = NULL;
    options.compute = compute;
    assert_ok(phx_device_create(&options, &device));
    return device;
}

/* Returns how many cases failed. */
static int run_table(struct phx_device *device, const char *type, const struct op_table *table)
{
    const char *only = getenv("PHX_TEST_OP");
    const bool once = getenv("PHX_TEST_ONCE") != NULL;
    int failed = 0;
    if (only != NULL && strcmp(only, table->op) != 0) return 0;
    for (size_t i = 0; i < table->n_cases; i++) {
        struct phx_device_info info;
        struct op_case c = {0};
        struct op_result result, again;
        phx_device_info(device, &info);
        table->describe(i, &info, &c);
        if (c.large) continue;
        op_case_run(device, table, i, 0, 0, &result);
        if (!once && result.failure[0] == '\0') {
            op_case_run_recorded(device, table, i, &again);
            if (again.failure[0] == '\0' && again.hash != result.hash)
                snprintf(result.failure, sizeof result.failure, "other bits as a graph");
            else
                memcpy(result.failure, again.failure, sizeof result.failure);
        }
        if (result.failure[0] == '\0') continue;
        failed++;
        print_error("%s, %s case %zu (%s): %s\n", type, table->op, i, c.name, result.failure);
    }
    return failed;
}

static void run_all(enum phx_dtype compute)
{
    int failed = 0;
    struct phx_device *device = open_device(compute);
    for (size_t t = 0; t < n_op_tables; t++)
        failed += run_table(device, phx_dtype_traits(compute)->name, op_tables[t]);
    phx_device_destroy(device);
    assert_int_equal(failed, 0);
}

static void test_f32(void **state)
{
    (void)state;
    run_all(PHX_F32);
}

static void test_f16(void **state)
{
    (void)state;
    run_all(PHX_F16);
}

static void test_bf16(void **state)
{
    (void)state;
    run_all(PHX_BF16);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_bf16),
    };
    const char *reason = NULL;
    if (argc > 1 && strcmp(argv[1], "--ops") == 0) {
        for (size_t i = 0; i < n_op_tables; i++) puts(op_tables[i]->op);
        return 0;
    }
    if (!phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        printf("skipped: %s\n", reason);
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("ops on CUDA", tests, NULL, NULL);
}
