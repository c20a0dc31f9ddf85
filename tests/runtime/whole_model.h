/* A model put together again from the pieces of all ranks. */
#ifndef PHX_TESTS_RUNTIME_WHOLE_MODEL_H
#define PHX_TESTS_RUNTIME_WHOLE_MODEL_H

#include <stdbool.h>

#include "kernels/device.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"

struct whole {
    char name[128];
    int64_t rows, cols;
    float *values;
    int *times; /* that a rank held the element */
    bool is_cut;
};

struct whole_model {
    struct whole tensors[256];
    int n;
};

/* From the pieces of `size` ranks, of a checkpoint or (NULL) of dummy weights; each element must be
 * held once, or by every rank where it is not cut, and what was read, taken and told must agree.
 * All tensors of a checkpoint must be of one type if `check_read`. */
struct whole_model *whole_model_load(struct phx_stream *stream, const struct phx_config *config,
                                     const struct phx_checkpoint *checkpoint, int size,
                                     bool check_read);
void whole_model_destroy(struct whole_model *model);

#endif
