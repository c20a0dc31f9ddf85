#include <stdio.h>
#include <sys/stat.h>

#include "kernels/base/check.h"
#include "launch/model_path.h"
#include "launch/verbs/verbs.h"
#include "runtime/convert.h"
#include "runtime/gguf.h"

static enum phx_status work(const struct phx_options *options)
{
    static const enum phx_dtype types[] = {
        [PHX_CONVERT_AUTO] = PHX_DTYPE_COUNT, [PHX_CONVERT_F32] = PHX_F32,
        [PHX_CONVERT_F16] = PHX_F16,          [PHX_CONVERT_BF16] = PHX_BF16,
        [PHX_CONVERT_Q8_0] = PHX_Q8_0,        [PHX_CONVERT_Q4_0] = PHX_Q4_0,
    };
    const struct phx_convert_options convert = {.matrices = types[options->convert_type]};
    char model[PHX_PATH_BYTES];
    PHX_TRY(phx_model_path(options->model, model));
    if (!options->convert_out) {
        return phx_fail(PHX_USAGE, "convert needs -o: the GGUF file to write, or the folder if -m "
                                   "is a GGUF file");
    }
    if (!phx_gguf_is(model)) return phx_convert_to_gguf(model, options->convert_out, &convert);
    if (convert.matrices != PHX_DTYPE_COUNT && !phx_dtype_traits(convert.matrices)->is_float) {
        return phx_fail(PHX_USAGE, "safetensors are written as f32, f16 or bf16, not as %s",
                        phx_dtype_traits(convert.matrices)->name);
    }
    struct stat info;
    if (stat(options->convert_out, &info) != 0 || !S_ISDIR(info.st_mode))
        return phx_fail(PHX_USAGE, "%s is no folder: make it first", options->convert_out);
    return phx_convert_from_gguf(model, options->convert_out, &convert);
}

enum phx_status phx_verb_convert(struct phx_world *world, const struct phx_options *options)
{
    return phx_world_agree(world, world->rank == 0 ? work(options) : PHX_OK);
}
