#include "kernels/stages.h"

#include <time.h>

#include "kernels/backend.h"
#include "kernels/base/check.h"

void phx_stream_leave_out(struct phx_stream *stream, unsigned stages, bool starts)
{
    PHX_ASSERT(stages < 1u << PHX_STAGE_COUNT);
    stream->left_out = stages;
    stream->stands_in = starts;
}

bool phx_stream_leaves_out(const struct phx_stream *stream, enum phx_stage stage)
{
    return stream->left_out >> stage & 1;
}

enum phx_status phx_stream_stand_in(struct phx_stream *stream)
{
    return stream->stands_in ? stream->device->backend->probe_empty(stream, true) : PHX_OK;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void phx_stream_time_stages(struct phx_stream *stream, struct phx_stage_times *times)
{
    PHX_ASSERT(times == NULL || !stream->device->info.has_graphs);
    stream->times = times;
    phx_stream_begin_pass(stream);
}

void phx_stream_begin_pass(struct phx_stream *stream)
{
    stream->ended_s = 0;
}

struct phx_stage_mark phx_stream_stage_begin(struct phx_stream *stream)
{
    if (stream->times == NULL) return (struct phx_stage_mark){0, 0};
    struct phx_stage_mark mark = {seconds_now(), stream->all_stages_s};
    if (stream->n_open == 0 && stream->ended_s > 0)
        stream->times->between_s += mark.now_s - stream->ended_s;
    stream->n_open++;
    return mark;
}

void phx_stream_stage_end(struct phx_stream *stream, enum phx_stage stage,
                          struct phx_stage_mark begun)
{
    if (stream->times == NULL) return;
    stream->ended_s = seconds_now();
    double inner = stream->all_stages_s - begun.counted_s;
    double own = stream->ended_s - begun.now_s - inner;
    stream->times->stage_s[stage] += own;
    stream->all_stages_s += own;
    stream->n_open--;
}
