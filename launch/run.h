/// \file run.h
/// The wiring of a run: world -> model -> device -> communicator -> weights -> engine; and its
/// teardown in reverse. The only place that picks an implementation of a device or a communicator.
#ifndef PHX_LAUNCH_RUN_H
#define PHX_LAUNCH_RUN_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "parallel/comm.h"
#include "parallel/shard_plan.h"
#include "parallel/world.h"
#include "runtime/config.h"
#include "runtime/engine.h"
#include "runtime/loader.h"
#include "runtime/memory_plan.h"
#include "runtime/safetensors.h"
#include "runtime/watchdog.h"

/// The same on all ranks, but for the threads, the GPU and their places.
struct phx_run_settings {
    const char *model;    ///< folder; NULL: the embedded model
    bool dummy;           ///< made-up weights; only config.json is needed
    bool expert_parallel; ///< ranks own whole experts
    enum phx_load_mode load_mode;
    int32_t context; ///< what texts are to fit in, for models that choose by it; 0: all
    enum phx_device_kind device;
    enum phx_dtype compute; ///< as in phx_device_options
    bool weights_type;      ///< on a GPU: the type that the model's config names, not `compute`
    int n_threads;          ///< CPU: of this rank
    bool crowded;           ///< CPU: as in phx_device_options
    const int *cpus;        ///< CPU: [n_threads] to pin to, or NULL
    const char *isa;        ///< CPU: as in phx_device_options
    int gpu;                ///< CUDA: ordinal of this rank's
    int gpu_sharers;        ///< CUDA: the most ranks that have the same GPU. Above 1 all ranks add
                            ///< through the host; 0 is taken for 1
    bool eager;             ///< CUDA: steps are not recorded as graphs
    bool overlap;           ///< CPU: steps padded and ahead of each other, as they are on GPUs
    enum phx_allreduce allreduce;  ///< CUDA: as in phx_comm_options
    double gpu_memory_utilization; ///< as in phx_memory_share; 0 is taken for 0.9
    bool choose_kv;                ///< the cache is kept in kv_dtype, not the device's choice
    enum phx_dtype kv_dtype;
    int watchdog_timeout_s; ///< 0: no watchdog
    bool progress;          ///< rank 0 shows a bar on stderr while a long load goes on
};

struct phx_run {
    struct phx_world *world;
    struct phx_run_settings settings;
    char *directory; ///< of the model
    struct phx_config *config;
    struct phx_shard_plan *plan;
    struct phx_checkpoint *checkpoint; ///< NULL: dummy weights
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_comm *comm;
    struct phx_buffer *partials; ///< of the communicator, freed with it
    struct phx_weights *weights;
    struct phx_watchdog *watchdog; ///< NULL: none
    struct phx_engine *engine;
    struct phx_memory_plan memory;
    struct phx_scheduler_limits limits; ///< that the engine was made for
    struct phx_load_report load;
};

/// Collective. Find the model, read its config, make the plan, map its files. Refusals (a world
/// size that the heads do not allow, a broken file, tensors that do not fit the config) come before
/// any device is touched. The
/// settings' pointers and the world outlive the run. On failure *out is NULL and all ranks have
/// failed together.
enum phx_status phx_run_open(struct phx_world *world, const struct phx_run_settings *settings,
                             struct phx_run **out);

/// What a verb will ask of the engine.
struct phx_run_needs {
    int32_t max_seqs;     ///< requests at the same time
    int32_t max_rows;     ///< tokens in a step, 0: phx_run_step_tokens(); at least max_seqs
    bool logits;          ///< requests may want logits on rank 0's host
    bool all_logits;      ///< the same, and outputs for every row, not one a sequence
    int64_t kept_rows;    ///< of logits, for which rank 0 will take host memory of its own
    int32_t max_length;   ///< context; at most what the model allows
    int64_t total_tokens; ///< cache for so many, if they fit; 0: for max_seqs of max_length
    bool share_prefixes;  ///< texts that begin alike share pages of the cache
};

/// Tokens of a step where nobody chose: more would hardly make products faster, and texts that
/// decode wait longer for those that read their prompts.
int32_t phx_run_step_tokens(enum phx_device_kind device);

/// What the engine is made for, if all of it fits.
struct phx_scheduler_limits phx_run_limits(const struct phx_config *config,
                                           enum phx_device_kind device,
                                           const struct phx_run_needs *needs);

/// How ranks on such devices add; gpu_sharers as in phx_run_settings.
enum phx_comm_kind phx_run_comm_kind(int size, enum phx_device_kind device, int gpu_sharers);

/// Collective. Device, memory, communicator, weights, engine. The needs are rank 0's; others' are
/// ignored.
enum phx_status phx_run_start(struct phx_run *run, const struct phx_run_needs *needs);

/// Type of a started run's cache.
enum phx_dtype phx_run_kv_dtype(const struct phx_run *run);

/// What the engine of a started run is made of, for those who look at its work.
struct phx_engine_parts phx_run_parts(const struct phx_run *run);

/// Collective: the orderly end of what phx_run_start made. Then destroy.
void phx_run_finish(struct phx_run *run);
/// Frees everything but the world; accepts NULL; never communicates.
void phx_run_destroy(struct phx_run *run);

#endif
