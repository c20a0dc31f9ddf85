#include "launch/verbs/bench_breakdown.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/verbs/bench_yardsticks.h"

enum { TURNS = 5, GPU_TURNS = 3, ALL = (1 << PHX_STAGE_COUNT) - 1, SUMS = 1 << PHX_STAGE_SUMS };

double phx_bench_breakdown_difference(const struct phx_bench_breakdown *parts)
{
    double rest = parts->whole_s - parts->gaps_s - parts->host_s;
    for (int s = 0; s < PHX_STAGE_COUNT; s++) rest -= parts->stage_s[s];
    return rest / parts->whole_s;
}

/* ---- what is measured, and what it means ---- */

int phx_bench_variants(bool has_graphs, int n_ranks, bool full,
                       struct phx_bench_variant variants[PHX_BENCH_VARIANTS])
{
    int n = 1;
    memset(variants, 0, PHX_BENCH_VARIANTS * sizeof *variants);
    if (!full && n_ranks == 1) return 0;
    if (!has_graphs) {
        variants[n++].timed = true;
        if (full) variants[n++] = (struct phx_bench_variant){.left_out = ALL, .timed = true};
        return n;
    }
    for (int s = 0; s < PHX_STAGE_COUNT; s++) {
        bool is_sums = s == PHX_STAGE_SUMS;
        unsigned with = s == PHX_STAGE_NORMS && n_ranks > 1 ? SUMS : 0;
        if (is_sums ? n_ranks > 1 : full)
            variants[n++] = (struct phx_bench_variant){.left_out = with | 1u << s, .starts = true};
    }
    if (!full) return n;
    variants[n++] = (struct phx_bench_variant){.left_out = ALL, .starts = true};
    variants[n++].left_out = ALL;
    return n;
}

void phx_bench_parts(const struct phx_bench_variant *variants, int n,
                     struct phx_bench_breakdown *out)
{
    const double whole = variants[0].seconds;
    double without_sums = whole, started = 0;
    *out = (struct phx_bench_breakdown){.whole_s = whole};
    for (int i = 1; i < n; i++) {
        const struct phx_bench_variant *v = &variants[i];
        if (v->left_out == ALL && v->starts) {
            started = v->seconds;
        } else if (v->left_out == ALL) {
            out->gaps_s = v->timed ? v->times.between_s : started - v->seconds;
            out->host_s = v->seconds - v->times.between_s;
        } else if (v->timed) {
            memcpy(out->stage_s, v->times.stage_s, sizeof out->stage_s);
        } else if (v->left_out == (SUMS | 1u << PHX_STAGE_NORMS)) {
            out->stage_s[PHX_STAGE_NORMS] = without_sums - v->seconds;
        } else {
            for (int s = 0; s < PHX_STAGE_COUNT; s++)
                if (v->left_out == 1u << s) out->stage_s[s] = whole - v->seconds;
            if (v->left_out == SUMS) without_sums = v->seconds;
        }
    }
}

/* ---- measuring ---- */

struct turns {
    double seconds[TURNS], between_s[TURNS], stage_s[PHX_STAGE_COUNT][TURNS];
};

static enum phx_status take_turn(struct phx_bench_steps *steps, const struct phx_bench_variant *v,
                                 int turn, struct turns *out)
{
    struct phx_stream *stream = steps->run->stream;
    struct phx_device_info info;
    struct phx_stage_times times = {.between_s = 0};
    phx_device_info(steps->run->device, &info);
    PHX_TRY(phx_bench_begin(steps->run, v->left_out, v->starts));
    if (info.has_graphs) PHX_TRY(phx_bench_warm_up(steps, false));
    if (v->timed) phx_stream_time_stages(stream, &times);
    enum phx_status status = phx_bench_repeat(steps, false, &out->seconds[turn]);
    if (v->timed) phx_stream_time_stages(stream, NULL);
    for (int s = 0; s < PHX_STAGE_COUNT; s++) out->stage_s[s][turn] = times.stage_s[s];
    out->between_s[turn] = times.between_s;
    PHX_TRY(status);
    return phx_engine_stop(steps->run->engine);
}

enum phx_status phx_bench_break_down(struct phx_bench_steps *steps, struct phx_bench_breakdown *out)
{
    struct phx_bench_variant variants[PHX_BENCH_VARIANTS];
    struct turns turns[PHX_BENCH_VARIANTS];
    struct phx_device_info info;
    bool full = steps->options->breakdown;
    phx_device_info(steps->run->device, &info);
    int n = phx_bench_variants(info.has_graphs, steps->run->world->size, full, variants);
    if (n == 0) return PHX_OK;
    const int n_turns = info.has_graphs ? GPU_TURNS : TURNS; /* a GPU is steadier */
    for (int turn = 0; turn < n_turns;
         turn++) /* whatever else the machine does meets all of them */
        for (int i = 0; i < n; i++) PHX_TRY(take_turn(steps, &variants[i], turn, &turns[i]));
    for (int i = 0; i < n; i++) {
        variants[i].seconds = phx_bench_median(turns[i].seconds, n_turns);
        for (int s = 0; s < PHX_STAGE_COUNT; s++)
            variants[i].times.stage_s[s] = phx_bench_median(turns[i].stage_s[s], n_turns);
        variants[i].times.between_s = phx_bench_median(turns[i].between_s, n_turns);
    }
    phx_bench_parts(variants, n, out);
    return PHX_OK;
}
