#include "launch/seats.h"

#include <string.h>

#include "kernels/base/check.h"

static bool is_same_gpu(const struct phx_seat *a, const struct phx_seat *b)
{
    return a->gpu >= 0 && b->gpu >= 0 && strcmp(a->info.uuid, b->info.uuid) == 0;
}

static enum phx_status refuse(const struct phx_seat *seats, int size, int first, int second)
{
    const struct phx_seat *seat = &seats[second];
    int n_there = 0;
    for (int r = 0; r < size; r++) n_there += strcmp(seats[r].host, seat->host) == 0;
    return phx_fail(
        PHX_UNSUPPORTED,
        "ranks %d and %d have come to the same GPU of %s, %.*s (%s at %s): %d ranks run "
        "there, and rank %d sees %d GPU%s. Start no more ranks than there are GPUs, let "
        "each see its own or all see all (CUDA_VISIBLE_DEVICES), or add --share-gpu, "
        "which is slow",
        first, second, seat->host, PHX_SHORT_UUID, seat->info.uuid, seat->info.name,
        seat->info.pci_id, n_there, second, seat->n_gpus, seat->n_gpus == 1 ? "" : "s");
}

enum phx_status phx_seats_check(const struct phx_seat *seats, int size, int rank, bool share,
                                int *out_sharers)
{
    *out_sharers = 1;
    for (int r = 0; r < size; r++)
        if (seats[rank].gpu < 0 && seats[r].gpu >= 0)
            return phx_fail(
                PHX_UNSUPPORTED,
                "%s, but rank %d computes on a GPU (%s of %s): see to it that every rank "
                "has a GPU, or give all of them --device cpu",
                seats[rank].no_gpu, r, seats[r].info.name, seats[r].host);
    for (int r = 0; r < size; r++) {
        int n = 0, second = r;
        for (int s = 0; s < size; s++) {
            if (s != r && !is_same_gpu(&seats[r], &seats[s])) continue;
            if (++n == 2) second = s;
        }
        if (n > 1 && !share) return refuse(seats, size, r, second);
        if (n > *out_sharers) *out_sharers = n;
    }
    return PHX_OK;
}
