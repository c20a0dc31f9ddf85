/// \file protobuf.h
/// The wire format of protocol buffers, read field by field.
/// Source: protobuf.dev/programming-guides/encoding.
#ifndef PHX_RUNTIME_TOKENIZER_PROTOBUF_H
#define PHX_RUNTIME_TOKENIZER_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"

/// A message: bytes of somebody else, from where it is read on.
struct phx_proto {
    const char *file; ///< for messages
    const char *data;
    size_t n;
};

enum phx_proto_kind { PHX_PROTO_VARINT, PHX_PROTO_64, PHX_PROTO_BYTES, PHX_PROTO_32 = 5 };

struct phx_proto_field {
    uint32_t number;
    enum phx_proto_kind kind;
    uint64_t value;         ///< of a varint, or the bits of 32 or 64
    struct phx_slice bytes; ///< text, bytes or a message
};

/// Take the next field off the front; *found is false at the end. PHX_BAD_DATA.
enum phx_status phx_proto_next(struct phx_proto *proto, struct phx_proto_field *out, bool *found);

/// PHX_BAD_DATA unless the field is of that kind; `name` is for messages.
enum phx_status phx_proto_expect(const struct phx_proto *proto, const struct phx_proto_field *field,
                                 enum phx_proto_kind kind, const char *name);
/// The value of a field of kind PHX_PROTO_32 as a float.
float phx_proto_float(const struct phx_proto_field *field);

#endif
