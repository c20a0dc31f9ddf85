/// \file device.h
/// A device with its memory, streams, events and graphs; opaque, the same for every backend.
///
/// Everything that takes a stream happens in the stream's order, after the call returns or before.
/// The CPU backend does the work inside the call. Handles are not shared between threads.
/// Errors: PHX_OUT_OF_MEMORY with the numbers; PHX_DEVICE with the library's words;
/// PHX_UNSUPPORTED.
#ifndef PHX_KERNELS_DEVICE_H
#define PHX_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/base/random.h"
#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_device;
struct phx_stream;
struct phx_buffer;
struct phx_event;
struct phx_graph;

enum phx_device_kind { PHX_DEVICE_CPU, PHX_DEVICE_CUDA };

struct phx_device_options {
    enum phx_device_kind kind;
    int ordinal;            ///< which GPU of this process; ignored on the CPU
    int n_threads;          ///< CPU: threads that compute, the caller among them; at least 1
    const char *isa;        ///< CPU: the most to use: "portable", "avx2", "avx512", "avx512_bf16";
                            ///< NULL: the best
    const int *cpus;        ///< CPU: n_threads processor numbers to pin to, or NULL: no pinning
    bool crowded;           ///< CPU: others compute on the same processors: waiting threads sleep
    enum phx_dtype compute; ///< CPU: PHX_F32, or PHX_BF16: products round activations to bf16.
                            ///< CUDA: the type of activations
};

struct phx_device_info {
    enum phx_device_kind kind;
    char name[128];  ///< "CPU, 2 threads, avx512" or the GPU's name
    char pci_id[32]; ///< "0000:3b:00.0"; "" on the CPU
    char uuid[48];   ///< "GPU-" and so on: the same whoever sees the GPU; "" on the CPU
    size_t memory_total_bytes;
    size_t memory_free_bytes;
    enum phx_dtype activation; ///< type of the tensors between products
    enum phx_dtype kv_default; ///< type of the KV cache unless the user chooses
    bool has_graphs;           ///< phx_graph_* work
    int n_units;               ///< that compute side by side: threads, a GPU's multiprocessors
};

enum { PHX_MAX_SEQS = 65535 }; ///< of a step: a direction of a GPU's grid

/// The largest sizes that steps on a stream will use; a backend sizes its scratch from them, so
/// that no step allocates. All counts are this rank's share.
struct phx_limits {
    int32_t max_rows;     ///< N: tokens in a step
    int32_t max_seqs;     ///< S: sequences in a step, at most PHX_MAX_SEQS
    int64_t max_length;   ///< keys of one sequence
    int64_t max_in;       ///< widest input of a product
    int64_t max_out;      ///< widest output of a product, lm_head excepted
    int64_t max_vocab;    ///< columns of the logits, gathered ones included: the whole vocabulary
    int32_t max_heads;    ///< Hq
    int32_t max_kv_heads; ///< Hk
    int32_t max_head_dim; ///< D
    bool quantised;       ///< products take weights of quantised types too
};

/// True if this build and this machine can make devices of `kind`; otherwise `reason` (a static
/// sentence) says why not.
bool phx_device_available(enum phx_device_kind kind, const char **reason);
/// False: this build has no backend of `kind`, on whatever machine it runs.
bool phx_device_built(enum phx_device_kind kind);

/// Devices that this process can choose among by their ordinal; the CPU is one.
int phx_device_count(enum phx_device_kind kind);
/// kind, name, pci_id, uuid and memory_total_bytes of a device without making it: nothing is taken
/// from it, and the rest of `out` is 0. PHX_NOT_FOUND if there is no such ordinal.
enum phx_status phx_device_describe(enum phx_device_kind kind, int ordinal,
                                    struct phx_device_info *out);
/// How device `from` gets at the memory of device `to`, as far as the driver tells. A device
/// reaches itself.
struct phx_device_link {
    bool direct;     ///< its kernels and copies go there without passing through the host
    bool atomics;    ///< natively, too: over NVLink, hardly ever over PCIe
    int performance; ///< among the links of this machine: 0 the best, 1 the next ...
};
enum phx_status phx_device_link(enum phx_device_kind kind, int from, int to,
                                struct phx_device_link *out);

enum phx_status phx_device_create(const struct phx_device_options *options,
                                  struct phx_device **out);
void phx_device_destroy(struct phx_device *device);
/// A device that is not there, to plan for: of `info` count kind, name, the memory, activation,
/// kv_default and n_units. It answers phx_device_info(), phx_stream_scratch_bytes() and
/// phx_weight_bytes() as a real one would, also for a kind that this build has no backend of, and
/// can do nothing else.
enum phx_status phx_device_on_paper(const struct phx_device_info *info, struct phx_device **out);
void phx_device_info(const struct phx_device *device, struct phx_device_info *out);

/// A stream with the scratch for `limits`, which is counted in memory plans.
enum phx_status phx_stream_create(struct phx_device *device, const struct phx_limits *limits,
                                  struct phx_stream **out);
void phx_stream_destroy(struct phx_stream *stream);
size_t phx_stream_scratch_bytes(const struct phx_device *device, const struct phx_limits *limits);
/// Wait on the host until all work given to the stream so far is done.
enum phx_status phx_stream_synchronize(struct phx_stream *stream);
struct phx_device *phx_stream_device(const struct phx_stream *stream);

/// Device memory, aligned to 256 bytes, zeroed.
enum phx_status phx_buffer_create(struct phx_device *device, size_t bytes, struct phx_buffer **out);
/// A buffer over memory that somebody else owns (a communicator's, or a test's) and the device can
/// use.
enum phx_status phx_buffer_wrap(struct phx_device *device, void *address, size_t bytes,
                                struct phx_buffer **out);
void phx_buffer_destroy(struct phx_buffer *buffer);
size_t phx_buffer_bytes(const struct phx_buffer *buffer);
/// Where the device sees it. Only the host of a CPU device may read it.
void *phx_buffer_address(const struct phx_buffer *buffer);

/// A rectangle of bytes: `rows` rows of `row_bytes`, consecutive rows `pitch` bytes apart.
/// From host memory: the source may be reused when the call returns.
enum phx_status phx_buffer_upload(struct phx_stream *stream, struct phx_buffer *to,
                                  size_t to_offset_bytes, size_t to_pitch_bytes, const void *from,
                                  size_t from_pitch_bytes, size_t row_bytes, int64_t rows);
/// To host memory: `to` holds the data once the stream has been synchronised. Into memory of
/// phx_host_alloc the copy is asynchronous; into any other the call may wait for it.
enum phx_status phx_buffer_download(struct phx_stream *stream, const struct phx_buffer *from,
                                    size_t from_offset_bytes, size_t from_pitch_bytes, void *to,
                                    size_t to_pitch_bytes, size_t row_bytes, int64_t rows);
enum phx_status phx_buffer_copy(struct phx_stream *stream, struct phx_buffer *to,
                                size_t to_offset_bytes, const struct phx_buffer *from,
                                size_t from_offset_bytes, size_t bytes);
enum phx_status phx_buffer_zero(struct phx_stream *stream, struct phx_buffer *buffer,
                                size_t offset_bytes, size_t bytes);

/// Host memory that copies to and from the device run at full speed from (pinned on CUDA).
enum phx_status phx_host_alloc(struct phx_device *device, size_t bytes, void **out);
void phx_host_free(struct phx_device *device, void *address);
/// What this process can still take of the host's memory.
size_t phx_host_free_bytes(void);

enum phx_status phx_event_create(struct phx_device *device, struct phx_event **out);
void phx_event_destroy(struct phx_event *event);
enum phx_status phx_event_record(struct phx_event *event, struct phx_stream *stream);
/// Wait on the host until the recorded point is reached; at once if nothing was recorded.
enum phx_status phx_event_wait(struct phx_event *event);
/// Milliseconds between two recorded points that have been reached.
enum phx_status phx_event_elapsed_ms(const struct phx_event *from, const struct phx_event *to,
                                     float *out_ms);

/// Record what is given to the stream instead of running it: ops, sums and gathers,
/// phx_buffer_copy, phx_buffer_zero, and phx_buffer_download into memory of phx_host_alloc. What
/// reads host memory or makes the host wait cannot be recorded: no upload, no event, no other
/// download (asserted), no weight. A graph keeps addresses, sizes and plain numbers, and finds in
/// memory what lies there when it is launched. Give the same calls to the stream once before
/// recording them, since libraries set up on first use what may take long. PHX_UNSUPPORTED without
/// has_graphs.
enum phx_status phx_graph_begin(struct phx_stream *stream);
/// With `out` NULL, after a failure since phx_graph_begin: what was recorded is dropped, PHX_OK.
/// The graph uses this stream's scratch: it is launched on this stream only, and destroyed before
/// it.
enum phx_status phx_graph_end(struct phx_stream *stream, struct phx_graph **out);
enum phx_status phx_graph_launch(struct phx_graph *graph, struct phx_stream *stream);
void phx_graph_destroy(struct phx_graph *graph);

#ifdef __cplusplus
}
#endif
#endif
