/* The experts of a checkpoint: every rank gets its part of each or its own ones, in order; what is
 * missing, too many or of another type is named. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/dtype.h"
#include "runtime/loader.h"
#include "runtime/weights_check.h"
#include "tests/runtime/written_model.h"

static const char config_json[] =
    "{\"model_type\": \"qwen2_moe\", \"hidden_size\": 40, \"intermediate_size\": 56,"
    "\"num_hidden_layers\": 3, \"num_attention_heads\": 6, \"head_dim\": 8,"
    "\"num_key_value_heads\": 3, \"vocab_size\": 67, \"rms_norm_eps\": 1e-6,"
    "\"max_position_embeddings\": 256, \"num_experts\": 5, \"num_experts_per_tok\": 2,"
    "\"moe_intermediate_size\": 44, \"shared_expert_intermediate_size\": 28,"
    "\"mlp_only_layers\": [1], \"dtype\": \"bfloat16\"}";

/* Rows [row, ...) of a weight are the rectangle rows x cols of the tensor of this name. */
static void check_rectangle(const struct written_model *m, struct phx_stream *stream,
                            const struct phx_weight *weight, int64_t row, const char *name,
                            struct phx_interval rows, struct phx_interval cols)
{
    const struct phx_file_tensor *t = phx_checkpoint_find(m->file, name);
    const int64_t n = phx_interval_length(cols), n_rows = phx_interval_length(rows);
    float *values = malloc((size_t)(n * n_rows) * sizeof *values);
    assert_non_null(t);
    assert_non_null(values);
    assert_int_equal(phx_weight_shape(weight).cols, n);
    assert_ok(phx_weight_read(stream, weight, row, n_rows, values));
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t c = 0; c < n; c++) {
            uint16_t bits;
            const int64_t at = (rows.begin + r) * t->shape[1] + cols.begin + c;
            memcpy(&bits, (const char *)t->data + 2 * at, sizeof bits);
            if (values[r * n + c] != phx_f32_from_bf16(bits))
                fail_msg("%s, row %lld, column %lld: %g", name, (long long)r, (long long)c,
                         (double)values[r * n + c]);
        }
    free(values);
}

/* Returns how many bytes of the layer's experts there are. */
static size_t check_layer(const struct written_model *m, struct phx_stream *stream,
                          const struct phx_weights *weights, const struct phx_shard_plan *plan,
                          int32_t l)
{
    const struct phx_layer_weights *w = &weights->layers[l];
    const struct phx_interval hidden = {0, 40}, one = {0, 1}, all = {0, 5};
    const int rank = phx_shard_plan_rank(plan);
    const struct phx_interval own = phx_shard_plan_experts(plan, rank, l);
    const struct phx_interval columns = phx_shard_plan_interval(plan, rank, l, PHX_DIM_MOE_FFN);
    const struct phx_interval shared = phx_shard_plan_interval(plan, rank, l, PHX_DIM_SHARED_FFN);
    const int64_t n = phx_interval_length(columns), n_shared = phx_interval_length(shared);
    const int64_t n_own = phx_interval_length(own);
    char name[128];
#define NAME(...) (snprintf(name, sizeof name, __VA_ARGS__), name)
    assert_int_equal(phx_weight_shape(w->experts_gate_up).rows, n_own * 2 * n);
    assert_int_equal(phx_weight_shape(w->experts_down).rows, n_own * 40);
    assert_int_equal(phx_weight_shape(w->router).rows, 6);
    check_rectangle(m, stream, w->router, 0, NAME("model.layers.%d.mlp.gate.weight", l), all,
                    hidden);
    check_rectangle(m, stream, w->router, 5,
                    NAME("model.layers.%d.mlp.shared_expert_gate.weight", l), one, hidden);
    check_rectangle(m, stream, w->shared_gate_up, n_shared,
                    NAME("model.layers.%d.mlp.shared_expert.up_proj.weight", l), shared, hidden);
    check_rectangle(m, stream, w->shared_down, 0,
                    NAME("model.layers.%d.mlp.shared_expert.down_proj.weight", l), hidden, shared);
    for (int64_t i = 0; i < n_own; i++) {
        const int e = (int)(own.begin + i);
        check_rectangle(m, stream, w->experts_gate_up, 2 * i * n,
                        NAME("model.layers.%d.mlp.experts.%d.gate_proj.weight", l, e), columns,
                        hidden);
        check_rectangle(m, stream, w->experts_gate_up, (2 * i + 1) * n,
                        NAME("model.layers.%d.mlp.experts.%d.up_proj.weight", l, e), columns,
                        hidden);
        check_rectangle(m, stream, w->experts_down, i * 40,
                        NAME("model.layers.%d.mlp.experts.%d.down_proj.weight", l, e), hidden,
                        columns);
    }
#undef NAME
    return (size_t)(n_own * 3 * n * 40) * 2;
}

static void every_rank_gets_its_own(void **state)
{
    (void)state;
    struct written_model m;
    struct phx_device *device = NULL;
    struct phx_stream *stream = NULL;
    const struct phx_limits limits = {.max_rows = 1, .max_in = 64, .max_out = 64};
    written_model_open(&(struct test_model){.config_json = config_json}, &m);
    assert_ok(phx_device_create(
        &(struct phx_device_options){.kind = PHX_DEVICE_CPU, .n_threads = 1}, &device));
    assert_ok(phx_stream_create(device, &limits, &stream));
    for (int whole = 0; whole < 2; whole++) {
        if (whole) assert_ok(phx_config_divide_experts(m.config));
        for (int size = 1; size <= 3; size++) {
            size_t bytes[3] = {0};
            for (int rank = 0; rank < size; rank++) {
                struct phx_shard_plan *plan = plan_of(m.config, size, rank);
                struct phx_weights *weights = NULL;
                struct phx_load_report report;
                assert_ok(phx_weights_check(m.config, plan, m.file));
                assert_ok(
                    phx_weights_load(m.config, plan, m.file, stream, NULL, &weights, &report));
                for (int32_t l = 0; l < 3; l += 2)
                    bytes[l] += check_layer(&m, stream, weights, plan, l);
                assert_null(weights->layers[1].experts_gate_up);
                assert_null(weights->layers[1].router);
                assert_null(weights->layers[0].gate_up);
                assert_non_null(weights->layers[1].gate_up);
                phx_weights_destroy(weights);
                phx_shard_plan_destroy(plan);
            }
            assert_int_equal(bytes[0], 5 * 3 * 44 * 40 * 2);
            assert_int_equal(bytes[2], bytes[0]);
        }
    }
    phx_stream_destroy(stream);
    phx_device_destroy(device);
    written_model_close(&m);
}

static bool without_one(struct phx_tensor_to_write *tensor)
{
    return strcmp(tensor->name, "model.layers.2.mlp.experts.3.up_proj.weight") != 0;
}

static bool too_short(struct phx_tensor_to_write *tensor)
{
    if (strcmp(tensor->name, "model.layers.0.mlp.experts.4.down_proj.weight") == 0)
        tensor->shape[1] = 43;
    return true;
}

static bool of_another_type(struct phx_tensor_to_write *tensor)
{
    if (strcmp(tensor->name, "model.layers.0.mlp.experts.2.down_proj.weight") == 0)
        tensor->dtype = PHX_F32;
    return true;
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        struct test_model model;
        enum phx_status status;
        const char *words[2];
    } rows[] = {
        {{.config_json = config_json, .edit = without_one},
         PHX_BAD_DATA,
         {"1 missing", "model.layers.2.mlp.experts.3.up_proj.weight"}},
        {{.config_json = config_json, .extra = "model.layers.0.mlp.experts.5.up_proj.weight"},
         PHX_BAD_DATA,
         {"1 unexpected", "model.layers.0.mlp.experts.5.up_proj.weight"}},
        {{.config_json = config_json, .extra = "model.layers.1.mlp.experts.0.up_proj.weight"},
         PHX_BAD_DATA,
         {"1 unexpected", "model.layers.1.mlp.experts.0.up_proj.weight"}},
        {{.config_json = config_json, .edit = too_short},
         PHX_BAD_DATA,
         {"experts.4.down_proj.weight", "[40, 44]"}},
        {{.config_json = config_json, .edit = of_another_type},
         PHX_UNSUPPORTED,
         {"experts.2.down_proj.weight", "one type"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct written_model m;
        written_model_open(&rows[i].model, &m);
        struct phx_shard_plan *plan = plan_of(m.config, 1, 0);
        phx_fail_clear();
        assert_int_equal(phx_weights_check(m.config, plan, m.file), rows[i].status);
        for (int w = 0; w < 2; w++)
            if (strstr(phx_fail_sentence(), rows[i].words[w]) == NULL)
                fail_msg("no %s in: %s", rows[i].words[w], phx_fail_sentence());
        phx_shard_plan_destroy(plan);
        written_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_its_own),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
