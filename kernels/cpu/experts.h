/// \file experts.h
/// What the CPU notes in phx_routing.groups: pairs by expert, and in their order within one.
#ifndef PHX_KERNELS_CPU_EXPERTS_H
#define PHX_KERNELS_CPU_EXPERTS_H

#include "kernels/ops.h"

/// [L + 1] where the pairs of each of this rank's experts begin; then how many there are.
static inline int32_t *phx_cpu_expert_starts(const struct phx_routing *routing)
{
    return (int32_t *)phx_tensor_address(routing->groups);
}

/// [N k] pairs; of those behind the last there is nothing.
static inline int32_t *phx_cpu_expert_pairs(const struct phx_routing *routing)
{
    return phx_cpu_expert_starts(routing) + routing->n_local + 1;
}

/// The end of phx_experts_down: out from `parts`.
void phx_cpu_experts_sum(struct phx_stream *stream, const struct phx_experts_down *args);

#endif
