/// \file probe.h
/// Kernels that do next to nothing: what a device reads and multiplies at best, and what it costs
/// to start something. The yardsticks of `phalanx bench` and of the programs in bench/.
#ifndef PHX_KERNELS_PROBE_H
#define PHX_KERNELS_PROBE_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/// words[i] = phx_mix32(i), of the whole buffer; its bytes are a multiple of 256.
enum phx_status phx_probe_fill(struct phx_stream *stream, struct phx_buffer *words);
/// Read [offset_bytes, offset_bytes + bytes), both multiples of 256, with all units and the widest
/// loads: *result (u32) ^= each word.
enum phx_status phx_probe_read(struct phx_stream *stream, const struct phx_buffer *words,
                               size_t offset_bytes, size_t bytes, struct phx_buffer *result);
/// Start all units, which do nothing; on a GPU each waits for its predecessor, as all kernels do.
/// `early`: it may start before that has ended.
enum phx_status phx_probe_empty(struct phx_stream *stream, bool early);
/// Operations a second, a multiply and an add counting as two, with all operands in registers, in
/// the type that the device's products compute in; takes about half a second. 0 where this is not
/// known: on a GPU its best product is the yardstick.
double phx_probe_multiply(struct phx_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
