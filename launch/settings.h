/// \file settings.h
/// The command line and the machine -> what a run is made with: device, threads, their places.
#ifndef PHX_LAUNCH_SETTINGS_H
#define PHX_LAUNCH_SETTINGS_H

#include "kernels/base/status.h"
#include "launch/options.h"
#include "launch/placement.h"
#include "launch/run.h"
#include "parallel/world.h"

/// Collective. Refuses a -tp that is not the world's size, a device that is not there, threads that
/// mpirun's binding does not allow, ranks on unlike devices or on one GPU (seats.h). Says that
/// there is no GPU where one would have been used, and the first warning of a placement that will
/// be slow. A rank on a GPU is bound near to it on return. `placement` owns what the settings'
/// `cpus` points to; the options outlive both.
enum phx_status phx_settings_make(struct phx_world *world, const struct phx_options *options,
                                  struct phx_placement **placement, struct phx_run_settings *out);

/// Of the KV cache, on a device that has this type by default.
enum phx_dtype phx_settings_kv_dtype(const struct phx_options *options,
                                     enum phx_dtype device_default);

#endif
