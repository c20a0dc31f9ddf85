/// \file reference_impl.h
/// What the files of the reference share. Only they include this.
#ifndef PHX_RUNTIME_REFERENCE_IMPL_H
#define PHX_RUNTIME_REFERENCE_IMPL_H

#include "kernels/base/random.h"
#include "runtime/reference.h"
#include "runtime/weights.h"

struct phx_ref_matrix {
    int64_t rows, cols;                 ///< rows 0: the model has none
    int64_t first_row;                  ///< of the tensor that they are in
    double offset;                      ///< added to the values stored
    const struct phx_file_tensor *file; ///< NULL: made up by `dummy`
    struct phx_dummy dummy;
};

/// A tensor and its bias.
struct phx_ref_pair {
    struct phx_ref_matrix weight, bias;
};

struct phx_ref_expert {
    struct phx_ref_matrix gate, up, down;
};

struct phx_reference {
    const struct phx_config *config;
    const struct phx_checkpoint *checkpoint;
    struct phx_reference_options options;
    struct phx_ref_pair *tensors;   ///< [n_layers][PHX_REF_TENSOR_COUNT]; those of no layer in each
    struct phx_ref_expert *experts; ///< [n_layers][max_experts]; NULL: none
    int32_t max_experts;            ///< of any layer
    int64_t widest;                 ///< columns
    double *row;                    ///< [widest] scratch
};

/// The index-th tensor that the model has of a slot.
enum phx_status phx_ref_find(const struct phx_reference *r, enum phx_slot slot, int index,
                             int32_t layer, int32_t expert, struct phx_ref_matrix *out);
void phx_ref_read_row(const struct phx_reference *r, const struct phx_ref_matrix *matrix,
                      int64_t row, double *out);
double phx_ref_activate(enum phx_activation activation, double z);

/* ---- reference_experts.c ---- */

enum phx_status phx_ref_find_experts(struct phx_reference *r);
/// choice[n][e]: the weight of expert e for row n, 0 if it is none of the k with the largest
/// logits, the lower first among equals. The weights are softmax(logits[n]), divided by their sum
/// over the k where the model normalises. Or those of a run (phx_reference_options).
void phx_ref_choose(const struct phx_reference *r, int32_t layer, int64_t n, const double *logits,
                    double *choice);
/// hidden[n][e] = act(gate_e x[n]) * up_e x[n] where chosen, else 0; out[n] = sum over e of
/// choice[n][e] * down_e hidden[n][e].
void phx_ref_experts(const struct phx_reference *r, int32_t layer, int64_t n, const double *x,
                     const double *choice, double *hidden, double *out);

#endif
