/// \file model_path.h
/// Where the model lies.
#ifndef PHX_LAUNCH_MODEL_PATH_H
#define PHX_LAUNCH_MODEL_PATH_H

#include "kernels/base/status.h"

enum { PHX_PATH_BYTES = 4096 };

/// `model` as given; or, if it is NULL, the embedded model: beside an installed binary, or in the
/// source tree above a built one.
enum phx_status phx_model_path(const char *model, char out[PHX_PATH_BYTES]);

#endif
