/* How many pages ranks settle on, whose memory decides, and what the one that lacks some is told.
 * Linked with what the device says wrapped. */
#include "tests/support/check.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/memory_plan.h"

static struct phx_device_info told;

void __wrap_phx_device_info(const struct phx_device *device, struct phx_device_info *out);

void __wrap_phx_device_info(const struct phx_device *device, struct phx_device_info *out)
{
    (void)device;
    *out = told;
}

enum { MB = 1000000 };

/* All but the cache takes 100 MB. */
static struct phx_memory_plan plan_of(size_t page_mb, size_t room_mb, size_t fill_mb)
{
    return (struct phx_memory_plan){.weights_bytes = 60 * MB,
                                    .kv_page_bytes = page_mb * MB,
                                    .activation_bytes = 20 * MB,
                                    .scratch_bytes = 15 * MB,
                                    .comm_bytes = 5 * MB,
                                    .room_bytes = room_mb * MB,
                                    .fill_bytes = fill_mb * MB};
}

static void the_poorest_rank_decides(void **state)
{
    static const struct {
        int32_t wanted, max_length; /* pages; tokens of one text */
        size_t page[3], room[3], fill[3];
        int32_t pages;
        int lacking;
    } rows[] = {
        /* All is there that the run can need. */
        {50, 640, {2, 1, 1}, {1000, 1000, 1000}, {1000, 1000, 1000}, 50, -1},
        /* Rank 0 has more heads, so larger pages: (200 - 100) / 2 and not 100. */
        {90, 640, {2, 1, 1}, {200, 200, 200}, {200, 200, 200}, 50, -1},
        /* Less memory counts more than smaller pages. */
        {90, 640, {2, 1, 1}, {200, 120, 200}, {200, 120, 200}, 20, -1},
        /* 11 pages for a text of 641 tokens, whatever the cache may fill. */
        {90, 641, {2, 1, 1}, {200, 200, 200}, {120, 110, 110}, 11, -1},
        {90, 640, {2, 1, 1}, {200, 200, 200}, {90, 200, 200}, 10, -1},
        {90, 640, {2, 1, 1}, {120, 110, 110}, {120, 110, 110}, 10, -1},
        /* A run that can need fewer pages than its longest text asks for no more. */
        {3, 640, {2, 1, 1}, {106, 103, 103}, {106, 103, 103}, 3, -1},
        /* Too little, on one rank or on all: who lacks the most pages. */
        {90, 640, {2, 1, 1}, {119, 110, 110}, {119, 110, 110}, 10, 0},
        {90, 640, {2, 1, 1}, {120, 110, 109}, {120, 110, 109}, 10, 2},
        {90, 640, {2, 1, 1}, {110, 104, 105}, {110, 104, 105}, 10, 1},
        {90, 640, {2, 1, 1}, {99, 98, 110}, {99, 98, 110}, 10, 1},
        /* Nor for all else: who lacks the most bytes. */
        {90, 640, {20, 1, 1}, {90, 95, 110}, {90, 95, 110}, 10, 0},
    };
    const struct phx_memory_share share = {.n_sharers = 1, .utilization = 0.9};
    (void)state;
    told = (struct phx_device_info){.kind = PHX_DEVICE_CPU, .name = "a CPU"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_memory_plan plans[3];
        for (int r = 0; r < 3; r++)
            plans[r] = plan_of(rows[i].page[r], rows[i].room[r], rows[i].fill[r]);
        for (int r = 0; r < 3; r++) {
            struct phx_scheduler_limits limits = {.max_length = rows[i].max_length,
                                                  .n_pages = rows[i].wanted};
            enum phx_status status = phx_memory_plans_settle(plans, 3, r, &share, &limits);
            phx_fail_clear();
            if (limits.n_pages != rows[i].pages ||
                status != (r == rows[i].lacking ? PHX_OUT_OF_MEMORY : PHX_OK))
                fail_msg("row %zu, rank %d: %d pages, %s", i, r, limits.n_pages,
                         phx_status_text(status));
        }
    }
}

static void the_sentence_has_the_numbers(void **state)
{
    struct phx_memory_share share = {.n_sharers = 1, .utilization = 0.75};
    struct phx_scheduler_limits limits = {.max_length = 1280, .n_pages = 40};
    struct phx_memory_plan plans[2] = {plan_of(20, 1000, 1000), plan_of(20, 330, 330)};
    (void)state;
    told = (struct phx_device_info){
        .kind = PHX_DEVICE_CUDA, .name = "a GPU", .memory_total_bytes = 500 * (size_t)MB};
    assert_fails(phx_memory_plans_settle(plans, 2, 1, &share, &limits), PHX_OUT_OF_MEMORY,
                 "rank 1 needs 0.50 GB on a GPU and 0.33 GB are left of 0.75 of its 0.50 GB: "
                 "weights 0.06, KV cache for one text of 1280 tokens 0.40, activations 0.02, "
                 "scratch 0.01, communicator 0.01; a context of 704 tokens would fit (-c 704)");
    told.kind = PHX_DEVICE_CPU;
    share.n_sharers = 2;
    plans[1].room_bytes = 90 * MB;
    assert_fails(phx_memory_plans_settle(plans, 2, 1, &share, &limits), PHX_OUT_OF_MEMORY,
                 "0.09 GB are free for each of 2 ranks: ");
    assert_fails(phx_memory_plans_settle(plans, 2, 1, &share, &limits), PHX_OUT_OF_MEMORY,
                 "; use more machines or a smaller model");
    plans[0].room_bytes = plans[1].room_bytes = plans[0].fill_bytes = 1000 * (size_t)MB;
    plans[0].host_rows = 2;
    plans[0].host_bytes = SIZE_MAX / 2;
    assert_fails(phx_memory_plans_settle(plans, 2, 0, &share, &limits), PHX_OUT_OF_MEMORY,
                 "the logits of 2 positions, which rank 0 keeps, need ");
    assert_ok(phx_memory_plans_settle(plans, 2, 1, &share, &limits));
}

/* ---- the room that a rank has ---- */

static const char config_json[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 40, \"intermediate_size\": 44,"
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 3,"
    "\"head_dim\": 10, \"vocab_size\": 53, \"rms_norm_eps\": 1e-5,"
    "\"max_position_embeddings\": 64, \"dtype\": \"bfloat16\"}";

static void rooms_leave_others_what_they_have(void **state)
{
    static const struct {
        enum phx_device_kind kind;
        size_t total_mb, free_mb;
        double utilization;
        int n_sharers;
        int64_t host_rows; /* of 53 logits */
        size_t room, fill; /* bytes */
    } rows[] = {
        /* 10 of 80 GB are others': 72 - 10. */
        {PHX_DEVICE_CUDA, 80000, 70000, 0.9, 1, 0, 62000 * (size_t)MB, 62000 * (size_t)MB},
        {PHX_DEVICE_CUDA, 80000, 70000, 0.9, 1, 1000, 62000 * (size_t)MB, 62000 * (size_t)MB},
        {PHX_DEVICE_CUDA, 80000, 70000, 0.5, 2, 0, 15000 * (size_t)MB, 15000 * (size_t)MB},
        {PHX_DEVICE_CUDA, 80000, 70000, 1, 1, 0, 70000 * (size_t)MB, 70000 * (size_t)MB},
        {PHX_DEVICE_CUDA, 80000, 30000, 0.5, 1, 0, 0, 0},
        {PHX_DEVICE_CPU, 64000, 40000, 0.9, 1, 0, 40000 * (size_t)MB, 20000 * (size_t)MB},
        {PHX_DEVICE_CPU, 64000, 40000, 0.9, 4, 100, 9999994700, 4999997350},
        {PHX_DEVICE_CPU, 64000, 0, 0.9, 1, 100, 0, 0},
    };
    struct phx_device *device;
    struct phx_config *config;
    struct phx_layer_shape layers[2];
    struct phx_shard_plan *plan;
    (void)state;
    assert_ok(phx_device_create(
        &(struct phx_device_options){.kind = PHX_DEVICE_CPU, .n_threads = 1}, &device));
    assert_ok(phx_config_parse("config.json", config_json, strlen(config_json), NULL, 0, &config));
    struct phx_model_shape shape = phx_config_shape(config, layers);
    assert_ok(phx_shard_plan_create(&shape, 2, 0, &plan));
    const struct phx_scheduler_limits limits = {
        .max_seqs = 2, .max_rows = 7, .max_outputs = 2, .max_length = 64};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_memory_share share = {device, rows[i].n_sharers, rows[i].utilization};
        struct phx_memory_plan p;
        told = (struct phx_device_info){.kind = rows[i].kind,
                                        .memory_total_bytes = rows[i].total_mb * MB,
                                        .memory_free_bytes = rows[i].free_mb * MB};
        const struct phx_comm_options comm = {.kind = PHX_COMM_HOST};
        phx_memory_plan_make(config, plan, NULL, &share, &comm, &limits, PHX_F16, rows[i].host_rows,
                             &p);
        size_t off =
            p.room_bytes > rows[i].room ? p.room_bytes - rows[i].room : rows[i].room - p.room_bytes;
        if (off > 1 || p.fill_bytes / 2 != rows[i].fill / 2)
            fail_msg("row %zu: room for %zu, %zu bytes; expected %zu, %zu", i, p.room_bytes,
                     p.fill_bytes, rows[i].room, rows[i].fill);
        /* 2 layers of K and V of 64 tokens and this rank's 2 heads of 10 values. */
        assert_int_equal(p.kv_page_bytes, 2 * 2 * 64 * 2 * 10 * 2);
        assert_int_equal(p.host_bytes, rows[i].host_rows * 53 * 4);
        assert_int_equal(phx_memory_plan_bytes(&p, 3) - phx_memory_plan_bytes(&p, 1),
                         2 * p.kv_page_bytes);
    }
    phx_shard_plan_destroy(plan);
    phx_config_destroy(config);
    phx_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_poorest_rank_decides),
        cmocka_unit_test(the_sentence_has_the_numbers),
        cmocka_unit_test(rooms_leave_others_what_they_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
