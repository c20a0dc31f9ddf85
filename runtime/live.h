/// \file live.h
/// The named activations of a reference's pass, out of what the taps of a running one saw.
#ifndef PHX_RUNTIME_LIVE_H
#define PHX_RUNTIME_LIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/capture.h"
#include "runtime/reference.h"

/// A text of n tokens, all of whose rows were captured at all points, and gathered. Rank 0.
struct phx_live {
    const struct phx_capture *capture;
    const struct phx_config *config;
    int32_t slot, n;
};

/// Where a rank's share of an activation lies.
struct phx_live_share {
    struct phx_interval cols; ///< of the whole activation
    int64_t head_cols;        ///< columns of a head; 0: it has no heads
};

/// `layer` is -1 for the activations of none.
struct phx_live_share phx_live_share(const struct phx_live *live, enum phx_activation_name name,
                                     int32_t layer, int rank);

/// A row of the rank's share; false if it was not seen. Sums over ranks are differences of the
/// residual; keys that a row does not see have score 0.
bool phx_live_row(const struct phx_live *live, enum phx_activation_name name, int32_t layer,
                  int rank, int32_t position, float *to);

#endif
