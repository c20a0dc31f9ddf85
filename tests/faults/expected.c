#include "tests/faults/expected.h"

#include <stddef.h>

#include "kernels/base/check.h"

static int kv_of(const struct test_shape *s, int size, int rank)
{
    return s->kv / size + (rank < s->kv % size);
}

static int kv_begin(const struct test_shape *s, int size, int rank)
{
    int begin = 0;
    for (int r = 0; r < rank; r++) begin += kv_of(s, size, r);
    return begin;
}

static struct test_expected at(enum phx_audit_check_id check, int rank, int q_head, int kv_head,
                               const char *activation)
{
    return (struct test_expected){.visible = true,
                                  .check = check,
                                  .rank = rank,
                                  .q_head = q_head,
                                  .kv_head = kv_head,
                                  .activation = activation,
                                  .activation_rank = rank};
}

static const struct test_expected invisible = {.visible = false};

/* The first rank with more than one KV head; -1: there is none. */
static int crowded_rank(const struct test_shape *s, int size)
{
    return kv_of(s, size, 0) > 1 ? 0 : -1; /* the first ranks own the most */
}

static struct test_expected expect_in_kernel(enum test_fault fault, const struct test_shape *s,
                                             int size)
{
    const int crowded = crowded_rank(s, size);
    switch (fault) {
    case FAULT_Q_MODULO_K: /* the head after a rank's first */
        if (crowded < 0 || s->group == 1) return invisible;
        return at(PHX_CHECK_MAP, crowded, 1, 0, "scores");
    case FAULT_GROUP_SIZE:
        if (s->group == 1) return invisible;
        return at(PHX_CHECK_CONFIG, 0, -1, -1, "scores");
    case FAULT_KV_HEAD_STRIDE: /* the second KV head is the first that is somewhere else */
        if (crowded < 0) return invisible;
        return at(PHX_CHECK_POINTERS, crowded, s->group, 1, "scores");
    case FAULT_STRIDES_SWAPPED:
        if (crowded < 0) return invisible;
        return at(PHX_CHECK_POINTERS, crowded, 0, 0, "scores");
    case FAULT_V_OF_NEIGHBOUR:
        if (crowded < 0) return invisible;
        return at(PHX_CHECK_VALUES, crowded, 0, 0, "attn");
    case FAULT_BLOCK_TABLE_ROW:
        return at(PHX_CHECK_POINTERS, 0, 0, 0, "scores");
    case FAULT_TAIL:
        return at(PHX_CHECK_MASK, 0, 0, 0, "attn");
    case FAULT_ROPE_POSITION:
    case FAULT_ROPE_PAIRS:
        return at(PHX_CHECK_Q_ROPE, 0, 0, -1, "q");
    case FAULT_QK_NORM_OVER_HEADS:
        if (s->qk_norm_all && size == 1) return invisible; /* as it should be */
        return s->qk_norm ? at(PHX_CHECK_Q_ROPE, 0, 0, -1, "q") : invisible;
    default:
        PHX_ASSERT(fault == FAULT_SCALE_MISSING || fault == FAULT_SCALE_TWICE);
        return at(PHX_CHECK_SCALE, 0, 0, 0, "scores");
    }
}

static struct test_expected expect_in_weights(enum test_fault fault, const struct test_shape *s,
                                              int size)
{
    switch (fault) {
    case FAULT_INTERLEAVED_GROUPS: /* rank 0's second group is group T instead of 1 */
        if (size == 1 || crowded_rank(s, size) < 0) return invisible;
        return at(PHX_CHECK_Q_PROJECTION, 0, s->group, -1, "q_proj");
    case FAULT_RANK_OFFSET:
        if (size == 1) return invisible;
        return at(PHX_CHECK_K_PROJECTION, 1, -1, kv_begin(s, size, 1), "k_proj");
    case FAULT_Q_PADDED:
        for (int r = 0; r < size; r++) {
            const int own = kv_begin(s, size, r) * s->group, n = kv_of(s, size, r) * s->group;
            int begin = r * ((s->heads + size - 1) / size);
            if (begin > s->heads - n) begin = s->heads - n;
            if (begin != own) return at(PHX_CHECK_Q_PROJECTION, r, own, -1, "q_proj");
        }
        return invisible;
    case FAULT_O_TRANSPOSED:
        return s->square ? at(PHX_CHECK_O_SLICE, 0, -1, -1, "o_partial") : invisible;
    case FAULT_O_COLUMNS:
        return size > 1 ? at(PHX_CHECK_O_SLICE, 0, -1, -1, "o_partial") : invisible;
    case FAULT_BIAS_EVERYWHERE:
        return size > 1 && s->o_bias ? at(PHX_CHECK_O_SLICE, 1, -1, -1, "o_partial") : invisible;
    default:
        PHX_ASSERT(fault == FAULT_LM_HEAD_SHIFTED);
        return size > 1 && !s->tied ? at(PHX_CHECK_LM_HEAD, 0, -1, -1, "logits") : invisible;
    }
}

struct test_expected test_expect(enum test_fault fault, const struct test_shape *s, int size)
{
    switch (fault) {
    case FAULT_NONE:
        return invisible;
    case FAULT_INTERLEAVED_GROUPS:
    case FAULT_RANK_OFFSET:
    case FAULT_Q_PADDED:
    case FAULT_O_TRANSPOSED:
    case FAULT_O_COLUMNS:
    case FAULT_BIAS_EVERYWHERE:
    case FAULT_LM_HEAD_SHIFTED:
        return expect_in_weights(fault, s, size);
    case FAULT_EXPERT_OF_NEIGHBOUR:
        if (!s->experts) return invisible;
        return (struct test_expected){.visible = true, .unaudited = true, .activation = "gate_up"};
    default:
        return expect_in_kernel(fault, s, size);
    }
}
