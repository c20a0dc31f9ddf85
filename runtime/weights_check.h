/// \file weights_check.h
/// Does a checkpoint hold the weights that the catalogue asks for?
#ifndef PHX_RUNTIME_WEIGHTS_CHECK_H
#define PHX_RUNTIME_WEIGHTS_CHECK_H

#include "kernels/base/status.h"
#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"

/// Every tensor of the catalogue is there with the expected shape and a float type, and no tensor
/// of the checkpoint is left over (rotary inv_freq buffers of old checkpoints excepted); a tied
/// model's lm_head.weight may be there or not. Otherwise PHX_BAD_DATA, which names them.
enum phx_status phx_weights_check(const struct phx_config *config,
                                  const struct phx_shard_plan *plan,
                                  const struct phx_checkpoint *checkpoint);

#endif
