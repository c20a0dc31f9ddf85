/// \file stages.h
/// Parts of a step, and what each of them takes: by leaving it out, or where calls can be timed.
#ifndef PHX_KERNELS_STAGES_H
#define PHX_KERNELS_STAGES_H

#include <stdbool.h>

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum phx_stage {
    PHX_STAGE_PRODUCTS,  ///< of weights, with what is fused into them
    PHX_STAGE_ATTENTION, ///< over the cache
    PHX_STAGE_SUMS,      ///< what goes between ranks
    PHX_STAGE_NORMS,     ///< norms, rotation, lookups, routing: whatever else ops do
    PHX_STAGE_SAMPLING,
    PHX_STAGE_COUNT
};
/// From now on ops of these stages (bits 1 << stage) check their arguments and do nothing else:
/// what they would write keeps what it held. `starts`: in place of each something is started that
/// does nothing, so that what a step takes less without a stage is the stage's work, without the
/// starts of its ops. What is computed then means nothing. 0, as at first: nothing is left out.
void phx_stream_leave_out(struct phx_stream *stream, unsigned stages, bool starts);
bool phx_stream_leaves_out(const struct phx_stream *stream, enum phx_stage stage);
/// In place of an op that is left out.
enum phx_status phx_stream_stand_in(struct phx_stream *stream);

/// Seconds. What lies within another stage's time, as a norm within a sum, counts for its own only.
struct phx_stage_times {
    double stage_s[PHX_STAGE_COUNT];
    double between_s; ///< from what is of a stage to the next of the same pass
};
/// From now on what stages take is added to *times; NULL, as at first: to nothing. Only where an op
/// is done when its call returns: on a device without graphs.
void phx_stream_time_stages(struct phx_stream *stream, struct phx_stage_times *times);
/// What follows has nothing to do with what was before.
void phx_stream_begin_pass(struct phx_stream *stream);
struct phx_stage_mark {
    double now_s, counted_s;
};
/// Around whatever is of a stage.
struct phx_stage_mark phx_stream_stage_begin(struct phx_stream *stream);
void phx_stream_stage_end(struct phx_stream *stream, enum phx_stage stage,
                          struct phx_stage_mark begun);

#ifdef __cplusplus
}
#endif
#endif
