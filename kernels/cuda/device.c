/* Devices, streams, events and graphs. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/discover.h"

enum {
    MIN_CAPABILITY = 80, /* asynchronous copies and bf16 tensor cores */
};

struct cuda_event {
    struct phx_event base;
    cudaEvent_t native;
    bool recorded;
};

struct cuda_graph {
    struct phx_graph base;
    struct phx_stream *stream; /* whose scratch it uses */
    cudaGraphExec_t native;
};

enum phx_status phx_cuda_status(cudaError_t error, const char *call)
{
    if (error == cudaSuccess) return PHX_OK;
    cudaGetLastError(); /* it has been seen */
    return phx_fail(error == cudaErrorMemoryAllocation ? PHX_OUT_OF_MEMORY : PHX_DEVICE,
                    "%s failed: %s", call, cudaGetErrorString(error));
}

enum phx_status phx_cuda_use(const struct phx_device *device)
{
    PHX_CUDA_TRY(cudaSetDevice, (((const struct phx_cuda_device *)device)->ordinal));
    return PHX_OK;
}

cudaStream_t phx_cuda_stream_native(const struct phx_stream *stream)
{
    return phx_cuda_stream(stream)->native;
}

/* ---- devices ---- */

static enum phx_status check_device(int ordinal, const struct cudaDeviceProp *properties,
                                    int *architecture)
{
    if (properties->major * 10 + properties->minor < MIN_CAPABILITY)
        return phx_fail(PHX_UNSUPPORTED,
                        "GPU %d (%s) has compute capability %d.%d: this program needs 8.0 or "
                        "later",
                        ordinal, properties->name, properties->major, properties->minor);
    cudaError_t error = phx_cuda_probe(architecture);
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return phx_fail(PHX_UNSUPPORTED,
                        "this build has no code for GPU %d (%s, compute capability %d.%d): build "
                        "with CMAKE_CUDA_ARCHITECTURES=%d",
                        ordinal, properties->name, properties->major, properties->minor,
                        properties->major * 10 + properties->minor);
    }
    return phx_cuda_status(error, "the first look at a kernel");
}

static enum phx_status open_device(struct phx_cuda_device *device,
                                   const struct phx_device_options *options)
{
    int n_devices = 0;
    PHX_CUDA_TRY(cudaGetDeviceCount, (&n_devices));
    if (options->ordinal < 0 || options->ordinal >= n_devices)
        return phx_fail(PHX_NOT_FOUND, "there is no GPU %d: this process sees %d", options->ordinal,
                        n_devices);
    struct cudaDeviceProp properties;
    PHX_CUDA_TRY(cudaSetDevice, (options->ordinal));
    PHX_CUDA_TRY(cudaGetDeviceProperties, (&properties, options->ordinal));
    int architecture = 0;
    PHX_TRY(check_device(options->ordinal, &properties, &architecture));
    device->ordinal = options->ordinal;
    device->starts_early = architecture >= PHX_CUDA_EARLY_START;
    struct phx_device_info *info = &device->base.info;
    PHX_TRY(phx_cuda_describe(options->ordinal, info));
    info->activation = info->kv_default = options->compute;
    info->has_graphs = true;
    info->n_units = properties.multiProcessorCount;
    PHX_CUDA_TRY(cudaMemGetInfo, (&info->memory_free_bytes, &info->memory_total_bytes));
    cublasStatus_t status = cublasLtCreate(&device->lt);
    if (status != CUBLAS_STATUS_SUCCESS)
        return phx_fail(PHX_DEVICE, "cublasLtCreate failed: %s", cublasLtGetStatusString(status));
    return PHX_OK;
}

enum phx_status phx_cuda_device_create(const struct phx_device_options *options,
                                       struct phx_device **out)
{
    PHX_ASSERT(options->compute == PHX_F32 || options->compute == PHX_F16 ||
               options->compute == PHX_BF16);
    struct phx_cuda_device *device = calloc(1, sizeof *device);
    if (device == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a device");
    device->base.backend = phx_backend_cuda();
    enum phx_status status = open_device(device, options);
    if (status != PHX_OK) {
        phx_cuda_device_destroy(&device->base);
        return status;
    }
    *out = &device->base;
    return PHX_OK;
}

void phx_cuda_device_destroy(struct phx_device *base)
{
    struct phx_cuda_device *device = (struct phx_cuda_device *)base;
    if (device->lt != NULL) cublasLtDestroy(device->lt);
    free(device);
}

void phx_cuda_device_info(const struct phx_device *device, struct phx_device_info *out)
{
    *out = device->info;
    size_t free_bytes = 0, total_bytes = 0;
    if (phx_cuda_use(device) == PHX_OK && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess)
        out->memory_free_bytes = free_bytes;
}

/* ---- streams ---- */

static enum phx_status open_stream(struct phx_cuda_stream *stream)
{
    struct phx_device *device = stream->base.device;
    PHX_TRY(phx_cuda_use(device));
    PHX_CUDA_TRY(cudaStreamCreateWithFlags, (&stream->native, cudaStreamNonBlocking));
    PHX_TRY(phx_cuda_ring_create(&stream->ring));
    PHX_TRY(phx_cuda_plans_create(&stream->plans));
    PHX_TRY(phx_cuda_buffer_create(
        device, phx_cuda_stream_scratch_bytes(device, &stream->base.limits), &stream->memory));
    stream->workspace = stream->memory->address;
    stream->packed = stream->workspace + stream->sizes.workspace_bytes;
    stream->wide = stream->packed + stream->sizes.packed_bytes;
    stream->expanded = stream->wide + stream->sizes.wide_bytes;
    stream->partial = stream->expanded + stream->sizes.expanded_bytes;
    stream->tickets = stream->partial + stream->sizes.partial_bytes;
    stream->best = stream->tickets + stream->sizes.tickets_bytes;
    PHX_CUDA_TRY(cudaMemsetAsync,
                 (stream->tickets, 0, stream->sizes.tickets_bytes, stream->native));
    return PHX_OK;
}

enum phx_status phx_cuda_stream_create(struct phx_device *device, const struct phx_limits *limits,
                                       struct phx_stream **out)
{
    if (limits->max_head_dim > PHX_CUDA_MAX_HEAD_DIM)
        return phx_fail(PHX_UNSUPPORTED,
                        "heads of %d values: attention on CUDA takes at most %d; use the CPU",
                        limits->max_head_dim, PHX_CUDA_MAX_HEAD_DIM);
    struct phx_cuda_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a stream");
    stream->base = (struct phx_stream){.device = device, .limits = *limits};
    stream->sizes = phx_cuda_scratch_sizes(device, limits);
    enum phx_status status = open_stream(stream);
    if (status != PHX_OK) {
        phx_cuda_stream_destroy(&stream->base);
        return status;
    }
    *out = &stream->base;
    return PHX_OK;
}

void phx_cuda_stream_destroy(struct phx_stream *base)
{
    struct phx_cuda_stream *stream = phx_cuda_stream(base);
    phx_cuda_use(base->device);
    if (stream->native != NULL) cudaStreamDestroy(stream->native);
    phx_cuda_ring_destroy(stream->ring);
    phx_cuda_plans_destroy(stream->plans);
    if (stream->memory != NULL) phx_cuda_buffer_destroy(stream->memory);
    free(stream);
}

enum phx_status phx_cuda_stream_synchronize(struct phx_stream *stream)
{
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_CUDA_TRY(cudaStreamSynchronize, (phx_cuda_stream_native(stream)));
    return PHX_OK;
}

/* ---- events ---- */

enum phx_status phx_cuda_event_create(struct phx_device *device, struct phx_event **out)
{
    PHX_TRY(phx_cuda_use(device));
    struct cuda_event *event = calloc(1, sizeof *event);
    if (event == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for an event");
    event->base.device = device;
    enum phx_status status = phx_cuda_status(cudaEventCreate(&event->native), "cudaEventCreate");
    if (status != PHX_OK) {
        free(event);
        return status;
    }
    *out = &event->base;
    return PHX_OK;
}

void phx_cuda_event_destroy(struct phx_event *base)
{
    struct cuda_event *event = (struct cuda_event *)base;
    phx_cuda_use(base->device);
    cudaEventDestroy(event->native);
    free(event);
}

enum phx_status phx_cuda_event_record(struct phx_event *base, struct phx_stream *stream)
{
    struct cuda_event *event = (struct cuda_event *)base;
    PHX_ASSERT(!phx_cuda_stream(stream)->recording);
    PHX_TRY(phx_cuda_use(base->device));
    PHX_CUDA_TRY(cudaEventRecord, (event->native, phx_cuda_stream_native(stream)));
    event->recorded = true;
    return PHX_OK;
}

enum phx_status phx_cuda_event_wait(struct phx_event *base)
{
    struct cuda_event *event = (struct cuda_event *)base;
    if (!event->recorded) return PHX_OK;
    PHX_CUDA_TRY(cudaEventSynchronize, (event->native));
    return PHX_OK;
}

enum phx_status phx_cuda_event_elapsed_ms(const struct phx_event *from, const struct phx_event *to,
                                          float *out_ms)
{
    PHX_CUDA_TRY(cudaEventElapsedTime, (out_ms, ((const struct cuda_event *)from)->native,
                                        ((const struct cuda_event *)to)->native));
    return PHX_OK;
}

/* ---- graphs ---- */

/* Relaxed: libraries may set up what they use first while it is recorded. */
enum phx_status phx_cuda_graph_begin(struct phx_stream *stream)
{
    PHX_ASSERT(!phx_cuda_stream(stream)->recording);
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_CUDA_TRY(cudaStreamBeginCapture,
                 (phx_cuda_stream_native(stream), cudaStreamCaptureModeRelaxed));
    phx_cuda_stream(stream)->recording = true;
    return PHX_OK;
}

enum phx_status phx_cuda_graph_end(struct phx_stream *stream, struct phx_graph **out)
{
    cudaGraph_t recorded = NULL;
    phx_cuda_stream(stream)->recording = false;
    PHX_TRY(phx_cuda_use(stream->device));
    if (out == NULL) {
        cudaStreamEndCapture(phx_cuda_stream_native(stream), &recorded);
        if (recorded != NULL) cudaGraphDestroy(recorded);
        cudaGetLastError(); /* of what failed before */
        return PHX_OK;
    }
    PHX_CUDA_TRY(cudaStreamEndCapture, (phx_cuda_stream_native(stream), &recorded));
    struct cuda_graph *graph = calloc(1, sizeof *graph);
    enum phx_status status =
        graph == NULL ? phx_fail(PHX_OUT_OF_MEMORY, "no memory for a graph")
                      : phx_cuda_status(cudaGraphInstantiate(&graph->native, recorded, 0),
                                        "cudaGraphInstantiate");
    cudaGraphDestroy(recorded);
    if (status != PHX_OK) {
        free(graph);
        return status;
    }
    graph->base.device = stream->device;
    graph->stream = stream;
    /* Its memory is taken now, not at the first launch. */
    status = phx_cuda_status(cudaGraphUpload(graph->native, phx_cuda_stream_native(stream)),
                             "cudaGraphUpload");
    if (status != PHX_OK) {
        phx_cuda_graph_destroy(&graph->base);
        return status;
    }
    *out = &graph->base;
    return PHX_OK;
}

enum phx_status phx_cuda_graph_launch(struct phx_graph *base, struct phx_stream *stream)
{
    const struct cuda_graph *graph = (struct cuda_graph *)base;
    PHX_ASSERT(graph->stream == stream);
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_CUDA_TRY(cudaGraphLaunch, (graph->native, phx_cuda_stream_native(stream)));
    return PHX_OK;
}

void phx_cuda_graph_destroy(struct phx_graph *base)
{
    struct cuda_graph *graph = (struct cuda_graph *)base;
    phx_cuda_use(base->device);
    cudaGraphExecDestroy(graph->native);
    free(graph);
}
