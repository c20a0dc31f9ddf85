/* Linked into the program, it makes it see GPUs that are not there: the first three of
 * tests/data/topology/four-nodes.xml, or those of them that CUDA_VISIBLE_DEVICES names. They can be
 * looked at, not opened. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"

enum { N_GPUS = 3 };

static const char *const pci_ids[N_GPUS] = {"0000:1B:00.0", "0000:C3:00.0", "0000:F1:00.0"};

/* Which of the GPUs each ordinal is. */
static int find_visible(int visible[N_GPUS])
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    int n = 0;
    for (int g = 0; list == NULL && g < N_GPUS; g++) visible[n++] = g;
    for (; list != NULL && n < N_GPUS && *list != '\0';
         list += strcspn(list, ","), list += *list == ',') {
        int g = atoi(list);
        if (g >= N_GPUS) break; /* as CUDA does */
        visible[n++] = g;
    }
    return n;
}

bool __real_phx_device_available(enum phx_device_kind kind, const char **reason);
bool __wrap_phx_device_available(enum phx_device_kind kind, const char **reason);
bool __wrap_phx_device_available(enum phx_device_kind kind, const char **reason)
{
    int visible[N_GPUS];
    if (kind == PHX_DEVICE_CPU) return __real_phx_device_available(kind, reason);
    *reason = "no NVIDIA GPU is visible to this process";
    return find_visible(visible) > 0;
}

bool __wrap_phx_device_built(enum phx_device_kind kind);
bool __wrap_phx_device_built(enum phx_device_kind kind)
{
    (void)kind;
    return true;
}

int __wrap_phx_device_count(enum phx_device_kind kind);
int __wrap_phx_device_count(enum phx_device_kind kind)
{
    int visible[N_GPUS];
    return kind == PHX_DEVICE_CPU ? 1 : find_visible(visible);
}

enum phx_status __wrap_phx_device_describe(enum phx_device_kind kind, int ordinal,
                                           struct phx_device_info *out);
enum phx_status __wrap_phx_device_describe(enum phx_device_kind kind, int ordinal,
                                           struct phx_device_info *out)
{
    int visible[N_GPUS];
    find_visible(visible);
    int g = visible[ordinal];
    *out = (struct phx_device_info){.kind = kind, .memory_total_bytes = (size_t)80 << 30};
    snprintf(out->name, sizeof out->name, "Pretended GPU");
    snprintf(out->pci_id, sizeof out->pci_id, "%s", pci_ids[g]);
    snprintf(out->uuid, sizeof out->uuid, "GPU-%08x-0000-4000-8000-0000000000ff", 0xa0 + g);
    return PHX_OK;
}

enum phx_status __wrap_phx_device_link(enum phx_device_kind kind, int from, int to,
                                       struct phx_device_link *out);
enum phx_status __wrap_phx_device_link(enum phx_device_kind kind, int from, int to,
                                       struct phx_device_link *out)
{
    (void)kind;
    *out = (struct phx_device_link){
        .direct = from + to != 2, .atomics = from + to == 1, .performance = from};
    return PHX_OK;
}
