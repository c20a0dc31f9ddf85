/* The sentence for every checkpoint that does not fit its config. */
#include "tests/support/check.h"

#include <string.h>

#include "runtime/weights_check.h"
#include "tests/runtime/written_model.h"

static bool without_head(struct phx_tensor_to_write *t)
{
    return strcmp(t->name, "lm_head.weight") != 0;
}

static bool without_attention(struct phx_tensor_to_write *t)
{
    return !strstr(t->name, "self_attn");
}

static bool renamed(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.norm.weight") == 0) t->name = "model.norm.gain";
    return true;
}

static bool other_layer_names(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.1.mlp.up_proj.weight") == 0)
        t->name = "model.layers.01.mlp.up_proj.weight";
    return true;
}

static bool wide_q(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.1.self_attn.q_proj.weight") == 0) t->shape[0] = 64;
    return true;
}

static bool turned_down(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.0.mlp.down_proj.weight") == 0) {
        t->shape[0] = 44;
        t->shape[1] = 40;
    }
    return true;
}

static bool norm_as_matrix(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.norm.weight") == 0) {
        t->n_dims = 2;
        t->shape[0] = 1;
        t->shape[1] = 40;
    }
    return true;
}

static bool empty_norm(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.norm.weight") == 0) t->n_dims = 2; /* [40, 0] */
    return true;
}

static bool integer_v(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.0.self_attn.v_proj.weight") == 0) t->dtype = PHX_U16;
    return true;
}

static void checkpoints_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct test_model model; /* without .config_json */
        const char *written_with;
        const char *words[4];
    } rows[] = {
        {{.edit = without_head}, NULL, {"1 missing", "lm_head.weight", "config.json", "llama"}},
        {{.edit = without_attention},
         NULL,
         {"8 missing", "model.layers.0.self_attn.q_proj.weight", ", ..."}},
        {{.extra = "model.layers.2.mlp.up_proj.weight"},
         NULL,
         {"1 unexpected", "model.layers.2.mlp.up_proj.weight", "2 layers"}},
        {{.extra = "score.weight"}, NULL, {"1 unexpected", "score.weight"}},
        {{.extra = "model.layers.x.mlp.up_proj.weight"}, NULL, {"1 unexpected", "layers.x."}},
        {{.extra = "model.layers.-1.mlp.up_proj.weight"}, NULL, {"1 unexpected", "layers.-1."}},
        {{.extra = "model.layers.4294967296.mlp.up_proj.weight"}, NULL, {"1 unexpected"}},
        {{.edit = renamed},
         NULL,
         {"1 missing (model.norm.weight)", "1 unexpected (model.norm.gain)"}},
        {{.edit = other_layer_names},
         NULL,
         {"1 missing (model.layers.1.mlp", "1 unexpected (model.layers.01.mlp"}},
        {{0}, CONFIG(", \"attention_bias\": true"), {"8 unexpected", "k_proj.bias", ", ..."}},
        {{.edit = wide_q},
         NULL,
         {"model.safetensors", "model.layers.1.self_attn.q_proj.weight", "[64, 40]", "[60, 40]"}},
        {{.edit = turned_down}, NULL, {"down_proj.weight", "[44, 40]", "[40, 44]"}},
        {{.edit = norm_as_matrix}, NULL, {"model.norm.weight", "[1, 40]", "must be [40]"}},
        {{.edit = empty_norm}, NULL, {"model.norm.weight", "[40, 0]", "must be [40]"}},
        {{.edit = integer_v}, NULL, {"v_proj.weight", "U16", "F32, F16 or BF16"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct test_model test = rows[i].model;
        struct written_model m;
        struct phx_config *config = NULL;
        test.config_json = rows[i].written_with ? rows[i].written_with : CONFIG("");
        written_model_open(&test, &m);
        assert_ok(
            phx_config_parse("config.json", CONFIG(""), strlen(CONFIG("")), NULL, 0, &config));
        struct phx_shard_plan *plan = plan_of(config, 2, 1);
        assert_int_equal(phx_weights_check(config, plan, m.file), PHX_BAD_DATA);
        assert_non_null(strstr(phx_fail_sentence(), m.folder));
        for (int w = 0; w < 4 && rows[i].words[w]; w++)
            if (!strstr(phx_fail_sentence(), rows[i].words[w]))
                fail_msg("row %zu: no \"%s\" in: %s", i, rows[i].words[w], phx_fail_sentence());
        phx_shard_plan_destroy(plan);
        phx_config_destroy(config);
        written_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoints_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
