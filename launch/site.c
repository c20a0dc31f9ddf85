#include "launch/site.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/base/check.h"

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the table of GPUs");
}

static enum phx_status choose_device(const struct phx_options *options, struct phx_site *site)
{
    const char *reason = "";
    site->device = PHX_DEVICE_CPU;
    if (options->device == PHX_CHOOSE_CPU) {
        snprintf(site->no_gpu, sizeof site->no_gpu, "this rank was given --device cpu");
    } else if (phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        site->device = PHX_DEVICE_CUDA;
    } else if (options->device == PHX_CHOOSE_CUDA) {
        return phx_fail(PHX_UNSUPPORTED, "--device cuda: %s; --device cpu works", reason);
    } else {
        snprintf(site->no_gpu, sizeof site->no_gpu, "%s", reason);
    }
    return PHX_OK;
}

static enum phx_status find_gpus(struct phx_site *site)
{
    int n = phx_device_count(site->device);
    site->gpus = calloc((size_t)n, sizeof *site->gpus);
    if (site->gpus == NULL) return no_memory();
    for (; site->n_gpus < n; site->n_gpus++)
        PHX_TRY(phx_device_describe(site->device, site->n_gpus, &site->gpus[site->n_gpus]));
    return PHX_OK;
}

static enum phx_status read_topology(struct phx_site *site)
{
    const char **pci_ids = calloc((size_t)site->n_gpus + 1, sizeof *pci_ids);
    if (pci_ids == NULL) return no_memory();
    for (int g = 0; g < site->n_gpus; g++) pci_ids[g] = site->gpus[g].pci_id;
    enum phx_status status = phx_topology_create(pci_ids, site->n_gpus, &site->topology);
    free(pci_ids);
    return status;
}

static enum phx_status make(const struct phx_options *options, struct phx_site *site)
{
    PHX_TRY(choose_device(options, site));
    if (site->device == PHX_DEVICE_CUDA) PHX_TRY(find_gpus(site));
    return read_topology(site);
}

enum phx_status phx_site_create(const struct phx_options *options, struct phx_site **out)
{
    struct phx_site *site = calloc(1, sizeof *site);
    if (site == NULL) return no_memory();
    enum phx_status status = make(options, site);
    if (status != PHX_OK) {
        phx_site_destroy(site);
        return status;
    }
    *out = site;
    return PHX_OK;
}

void phx_site_destroy(struct phx_site *site)
{
    if (site == NULL) return;
    phx_topology_destroy(site->topology);
    free(site->gpus);
    free(site);
}

enum phx_status phx_site_gather(const struct phx_site *site, const struct phx_placement *placement,
                                struct phx_world *world, struct phx_seat **out)
{
    struct phx_seat mine = {.n_gpus = site->n_gpus, .gpu = -1};
    struct phx_seat *all = calloc((size_t)world->size, sizeof *all);
    PHX_ASSERT(all != NULL);
    if (gethostname(mine.host, sizeof mine.host - 1) != 0)
        snprintf(mine.host, sizeof mine.host, "this machine");
    snprintf(mine.no_gpu, sizeof mine.no_gpu, "%s", site->no_gpu);
    if (placement != NULL) {
        mine.warned = placement->warning[0] != '\0';
        mine.gpu = placement->gpu;
        if (mine.gpu >= 0) mine.info = site->gpus[mine.gpu];
    }
    enum phx_status status = phx_world_allgather(world, &mine, sizeof mine, all);
    if (status != PHX_OK) {
        free(all);
        return status;
    }
    *out = all;
    return PHX_OK;
}
