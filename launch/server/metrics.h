/// \file metrics.h
/// Numbers of a server: counted by the engine's thread, shown in Prometheus' text format under the
/// suffixes that vLLM gives them.
#ifndef PHX_LAUNCH_SERVER_METRICS_H
#define PHX_LAUNCH_SERVER_METRICS_H

#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/engine.h"
#include "runtime/request.h"
#include "runtime/tokenizer/buffer.h"

enum { PHX_METRICS_BUCKETS = 24, PHX_METRICS_FINISHES = PHX_FINISH_ERROR + 1 };

/// Bounds are those of the histogram's row in metrics.c.
struct phx_histogram {
    int64_t counts[PHX_METRICS_BUCKETS + 1]; ///< the last one: beyond all bounds
    double sum;
};

struct phx_metrics {
    /* right now */
    int32_t n_running, n_waiting;  ///< texts
    int32_t n_pages, n_pages_used; ///< of the KV cache
    /* since the start */
    int64_t prompt_tokens, generation_tokens;
    int64_t n_preemptions;
    int64_t prefix_queries, prefix_hits; ///< prompt tokens looked up in the cache, and found
    int64_t finished[PHX_METRICS_FINISHES];
    int64_t n_steps;
    double busy_seconds;   ///< in steps
    double device_seconds; ///< of rank 0's device in steps
    double sum_seconds;    ///< of rank 0 in sums over ranks; NaN: not known
    double loop_seconds;   ///< with work: in steps and between them
    struct phx_histogram ttft, tpot, itl, e2e, step, prompt_length, output_length;
};

void phx_metrics_text_ended(struct phx_metrics *metrics, enum phx_finish finish, int32_t n_prompt,
                            int32_t n_new, double arrived_s, double first_s, double last_s);
/// A token came at now_s; the one before it, of the same text, at last_s (0: it is the first).
void phx_metrics_token(struct phx_metrics *metrics, double arrived_s, double last_s, double now_s);
void phx_metrics_step(struct phx_metrics *metrics, const struct phx_step_report *report);

/// Append the text; model_name is made a label.
enum phx_status phx_metrics_print(const struct phx_metrics *metrics, const char *model_name,
                                  struct phx_bytes *out);

#endif
