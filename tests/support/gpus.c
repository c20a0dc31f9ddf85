#include "tests/support/gpus.h"

#include <stdio.h>
#include <string.h>

#include "kernels/device.h"

enum { MOST = 64 };

int test_count_gpus(void)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    const char *reason = NULL;
    if (!phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        printf("skipped: %s\n", reason);
        return 0;
    }
    options.compute = PHX_F32;
    for (; options.ordinal < MOST; options.ordinal++) {
        struct phx_device *device;
        if (phx_device_create(&options, &device) != PHX_OK) break;
        phx_device_destroy(device);
    }
    phx_fail_clear();
    return options.ordinal;
}

bool test_compute_type(const char *name, enum phx_dtype *out)
{
    static const char *const names[] = {"f32", "bf16", "f16"};
    static const enum phx_dtype types[] = {PHX_F32, PHX_BF16, PHX_F16};
    for (int i = 0; i < 3; i++) {
        *out = types[i];
        if (strcmp(name, names[i]) == 0) return true;
    }
    return false;
}
