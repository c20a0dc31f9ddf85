#include "tests/runtime/written_model.h"

#include "tests/support/check.h"

void written_model_open(const struct test_model *test, struct written_model *out)
{
    out->folder = test_folder_create();
    test_model_write(out->folder, test);
    assert_ok(phx_config_load(out->folder, &out->config));
    assert_ok(phx_checkpoint_open(out->folder, &out->file));
}

void written_model_close(struct written_model *model)
{
    phx_checkpoint_destroy(model->file);
    phx_config_destroy(model->config);
    test_folder_destroy(model->folder);
}

struct phx_shard_plan *plan_of(const struct phx_config *config, int size, int rank)
{
    struct phx_layer_shape layers[64];
    struct phx_shard_plan *plan = NULL;
    assert_true(config->n_layers <= 64);
    struct phx_model_shape shape = phx_config_shape(config, layers);
    assert_ok(phx_shard_plan_create(&shape, size, rank, &plan));
    return plan;
}
