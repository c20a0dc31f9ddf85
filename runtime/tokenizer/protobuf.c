#include "runtime/tokenizer/protobuf.h"

#include <string.h>

#include "kernels/base/check.h"

static enum phx_status cut_short(const struct phx_proto *proto)
{
    return phx_fail(PHX_BAD_DATA, "%s: it ends within a field, or is no protocol buffer",
                    proto->file);
}

static void skip(struct phx_proto *proto, size_t n)
{
    proto->data += n;
    proto->n -= n;
}

static enum phx_status read_varint(struct phx_proto *proto, uint64_t *out)
{
    *out = 0;
    for (unsigned i = 0; i < 10 && i < proto->n; i++) {
        unsigned char byte = (unsigned char)proto->data[i];
        *out |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte & 0x80) continue;
        skip(proto, i + 1);
        return PHX_OK;
    }
    return cut_short(proto);
}

static enum phx_status read_fixed(struct phx_proto *proto, unsigned n, uint64_t *out)
{
    if (proto->n < n) return cut_short(proto);
    *out = 0;
    for (unsigned i = 0; i < n; i++) *out |= (uint64_t)(unsigned char)proto->data[i] << (8 * i);
    skip(proto, n);
    return PHX_OK;
}

enum phx_status phx_proto_next(struct phx_proto *proto, struct phx_proto_field *out, bool *found)
{
    uint64_t tag, n;
    *found = proto->n > 0;
    if (!*found) return PHX_OK;
    PHX_TRY(read_varint(proto, &tag));
    *out = (struct phx_proto_field){.number = (uint32_t)(tag >> 3)};
    if (tag > UINT32_MAX || out->number == 0) {
        return phx_fail(PHX_BAD_DATA, "%s: it is no protocol buffer: a field has the number %llu",
                        proto->file, (unsigned long long)(tag >> 3));
    }
    switch (tag & 7) {
    case PHX_PROTO_VARINT:
        out->kind = PHX_PROTO_VARINT;
        return read_varint(proto, &out->value);
    case PHX_PROTO_64:
        out->kind = PHX_PROTO_64;
        return read_fixed(proto, 8, &out->value);
    case PHX_PROTO_32:
        out->kind = PHX_PROTO_32;
        return read_fixed(proto, 4, &out->value);
    case PHX_PROTO_BYTES:
        out->kind = PHX_PROTO_BYTES;
        PHX_TRY(read_varint(proto, &n));
        if (n > proto->n) return cut_short(proto);
        out->bytes = (struct phx_slice){proto->data, (size_t)n};
        skip(proto, (size_t)n);
        return PHX_OK;
    }
    return phx_fail(PHX_BAD_DATA, "%s: it is no protocol buffer: field %u has the wire type %u",
                    proto->file, out->number, (unsigned)(tag & 7));
}

enum phx_status phx_proto_expect(const struct phx_proto *proto, const struct phx_proto_field *field,
                                 enum phx_proto_kind kind, const char *name)
{
    if (field->kind == kind) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: %s has the wire type %d; it must be %d", proto->file, name,
                    (int)field->kind, (int)kind);
}

float phx_proto_float(const struct phx_proto_field *field)
{
    uint32_t bits = (uint32_t)field->value;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
