/* A model that a test writes, opened. */
#ifndef PHX_TESTS_RUNTIME_WRITTEN_MODEL_H
#define PHX_TESTS_RUNTIME_WRITTEN_MODEL_H

#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"
#include "tests/support/write_model.h"

/* A small Llama: 6 query heads on 3 KV heads, nothing divides evenly. */
#define CONFIG_VOCAB(vocab, more)                                                                  \
    "{\"model_type\": \"llama\", \"hidden_size\": 40, \"intermediate_size\": 44,"                  \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 3,"            \
    "\"head_dim\": 10, \"vocab_size\": " vocab ", \"rms_norm_eps\": 1e-5,"                         \
    "\"max_position_embeddings\": 64" more "}"
#define CONFIG(more) CONFIG_VOCAB("53", more)

struct written_model {
    char *folder;
    struct phx_config *config;
    struct phx_checkpoint *file;
};

void written_model_open(const struct test_model *test, struct written_model *out);
void written_model_close(struct written_model *model);

/* What `rank` of `size` owns. */
struct phx_shard_plan *plan_of(const struct phx_config *config, int size, int rank);

#endif
