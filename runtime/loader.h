/// \file loader.h
/// Catalogue x checkpoint x plan -> this rank's rectangles on the device. Knows no heads.
#ifndef PHX_RUNTIME_LOADER_H
#define PHX_RUNTIME_LOADER_H

#include <stddef.h>

#include "kernels/device.h"
#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/file_reader.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"

struct phx_load_options {
    enum phx_load_mode mode;
    /// Called now and then with bytes done and to do, from the calling thread; may be NULL.
    void (*progress)(void *user, size_t done_bytes, size_t total_bytes);
    void *progress_user;
};

struct phx_load_report {
    size_t file_bytes;   ///< of all files of the checkpoint; 0 for dummy weights
    size_t read_bytes;   ///< of them that are this rank's
    size_t fetch_bytes;  ///< that it read for that: rows whole where that is faster
    size_t device_bytes; ///< taken on the device
    double seconds;
};

/// Of a checkpoint that phx_weights_check() finds good. Reads only this rank's rectangles. The
/// stream is synchronised on return.
enum phx_status phx_weights_load(const struct phx_config *config, const struct phx_shard_plan *plan,
                                 const struct phx_checkpoint *checkpoint, struct phx_stream *stream,
                                 const struct phx_load_options *options, struct phx_weights **out,
                                 struct phx_load_report *report);

/// The same shapes without a checkpoint: each tensor's values are a function of its name and the
/// global indices (phx_weight_row_dummy), rounded to config->dtype; the same bits for any plan.
enum phx_status phx_weights_dummy(const struct phx_config *config,
                                  const struct phx_shard_plan *plan, struct phx_stream *stream,
                                  struct phx_weights **out, struct phx_load_report *report);

void phx_weights_destroy(struct phx_weights *weights);

/// Device bytes that either would take, without taking them, and of each kind. `checkpoint` NULL:
/// all of config->dtype.
size_t phx_weights_device_bytes(const struct phx_config *config, const struct phx_shard_plan *plan,
                                const struct phx_checkpoint *checkpoint,
                                const struct phx_device *device,
                                size_t by_kind[PHX_WEIGHT_KIND_COUNT]);

#endif
