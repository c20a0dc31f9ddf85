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
    int64_t head_cols;        ///< columns of a head, or of an expert; 0: it has neither
    int64_t n_pieces, stride; ///< as many pieces as long as `cols`, each that far from the last
};

static inline int64_t phx_live_share_length(struct phx_live_share share)
{
    return share.n_pieces * phx_interval_length(share.cols);
}

/// The column of the whole activation that the share's own column i is.
static inline int64_t phx_live_share_col(struct phx_live_share share, int64_t i)
{
    int64_t length = phx_interval_length(share.cols);
    return share.cols.begin + i / length * share.stride + i % length;
}

/// Columns of the whole activation in a layer; 0: the layer has no such activation.
int64_t phx_live_cols(const struct phx_live *live, enum phx_activation_name name, int32_t layer);

/// `layer` is -1 for the activations of none.
struct phx_live_share phx_live_share(const struct phx_live *live, enum phx_activation_name name,
                                     int32_t layer, int rank);

/// A row of the rank's share; false if it was not seen. Sums over ranks are differences of the
/// residual; keys that a row does not see have score 0.
bool phx_live_row(const struct phx_live *live, enum phx_activation_name name, int32_t layer,
                  int rank, int32_t position, float *to);

#endif
