#include "launch/sampling.h"

#include <math.h>
#include <sys/random.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"

static double choose(const struct phx_options *o, const char *name, double value, double model)
{
    return !phx_options_given(o, name) && !isnan(model) ? model : value;
}

enum phx_status phx_sampling_choose(const struct phx_options *options,
                                    const struct phx_config *config, struct phx_sampling *out)
{
    const struct phx_options *o = options;
    const struct phx_config *c = config;
    *out = (struct phx_sampling){
        .temperature = (float)choose(o, "--temp", o->temperature, c->temperature),
        .top_p = (float)choose(o, "--top-p", o->top_p, c->top_p),
        .min_p = (float)choose(o, "--min-p", o->min_p, c->min_p),
        .top_k = !phx_options_given(o, "--top-k") && c->top_k >= 0 ? c->top_k : o->top_k,
        .repeat_penalty =
            (float)choose(o, "--repeat-penalty", o->repeat_penalty, c->repeat_penalty),
        .presence_penalty = (float)o->presence_penalty,
        .frequency_penalty = (float)o->frequency_penalty,
        .seed = (uint64_t)o->seed};
    if (o->seed >= 0) return PHX_OK;
    if (getrandom(&out->seed, sizeof out->seed, 0) != (ssize_t)sizeof out->seed)
        return phx_fail(PHX_IO, "the system has no random seed: give one with -s");
    out->seed >>= 1; /* so that it can be given back with -s */
    if (out->temperature > 0) phx_log(PHX_LOG_INFO, "seed %llu", (unsigned long long)out->seed);
    return PHX_OK;
}
