/* Linked where the build has no NCCL. */
#include "parallel/comm_impl.h"
#include "parallel/comm_nccl_sizes.h"

static enum phx_status absent_create(struct phx_world *world, struct phx_device *device,
                                     const struct phx_comm_options *options, struct phx_comm **out)
{
    (void)world, (void)device, (void)options, (void)out;
    return phx_fail(PHX_UNSUPPORTED, "this build has no NCCL, which ranks on GPUs need: build with "
                                     "the CUDA toolkit and NCCL, or run on the CPU");
}

void phx_nccl_info(struct phx_nccl_info *out)
{
    *out = (struct phx_nccl_info){0};
}

/* Without a communicator the other entries are never called. */
const struct phx_comm_ops phx_comm_nccl = {
    .name = "nccl, absent", .create = absent_create, .bytes = phx_nccl_bytes};
