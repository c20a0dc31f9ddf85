/// \file step_record.h
/// What rank 0 tells the others of a step: a flat message, written in place, read in place. Pure.
///
/// All ranks apply the records in order and so hold the same slots, pages and sampling parameters.
#ifndef PHX_RUNTIME_STEP_RECORD_H
#define PHX_RUNTIME_STEP_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "runtime/scheduler.h"

enum phx_record_kind { PHX_RECORD_STEP, PHX_RECORD_STOP };

/// How the step's tokens are drawn.
enum phx_draw {
    PHX_DRAW_NONE,       ///< no row draws a token
    PHX_DRAW_CANDIDATES, ///< every row can be drawn from n_candidates a rank
    PHX_DRAW_FULL        ///< some row needs the logits of the whole vocabulary
};

struct phx_record_head {
    uint64_t number;     ///< 0, 1, 2, ...
    uint64_t n_hashed;   ///< steps that rank 0 knew the tokens of
    uint64_t token_hash; ///< over the tokens drawn in these; differs on no rank
    int32_t kind;        ///< enum phx_record_kind
    int32_t n_joins, n_biases, n_blocks, n_seqs, n_outputs, n_rows, n_seen;
    int32_t draw;         ///< enum phx_draw
    int32_t n_candidates; ///< K of PHX_DRAW_CANDIDATES
    int32_t adjust;       ///< some running request has penalties or biases
    int32_t want_logits;  ///< rank 0 wants some rows' logits on its host
};

/// A slot's parameters: of a request that joins, or that goes on under other ones.
struct phx_record_join {
    struct phx_sampling sampling;
    int32_t slot;
    int32_t fresh;  ///< it joins: the entries of its bias and its seen tokens are in the record.
                    ///< Otherwise its bias is now only the first n_bias entries that it joined with
    int32_t n_seen; ///< tokens that count for its penalties but are in no row: they were shared
    int32_t n_prompt; ///< as in struct phx_record_seq
};

struct phx_record_bias {
    int32_t id;
    float value;
};

struct phx_record_block {
    int32_t slot, block, page;
};

struct phx_record_seq {
    int32_t slot;
    int32_t n_rows;
    int32_t position; ///< of its first row
    int32_t n_prompt; ///< positions before this one are the prompt's
};

struct phx_record_output {
    int32_t row;      ///< of the step
    int32_t slot;     ///< -1: draws nothing
    int32_t position; ///< that the predicted token has
    int32_t wanted;   ///< rank 0 wants the row's logits on its host
};

/// A record in its buffer; the arrays lie behind the head in this order.
struct phx_step_record {
    struct phx_record_head *head;
    struct phx_record_join *joins;
    struct phx_record_bias *biases;
    struct phx_record_block *blocks;
    struct phx_record_seq *seqs;
    struct phx_record_output *outputs;
    int32_t *ids;  ///< [n_rows]; -1 - slot: the slot's newest token
    int32_t *seen; ///< [n_seen] join after join
    size_t bytes;
};

/// The most bytes that a record can take.
size_t phx_step_record_capacity(const struct phx_scheduler_limits *limits);

/// Write the record of a schedule into `buffer`, 8-byte aligned, of at least the capacity. Of
/// `head` the number and the hash count.
void phx_step_record_write(const struct phx_schedule *schedule, const struct phx_kv_cache *cache,
                           const struct phx_record_head *head, void *buffer,
                           struct phx_step_record *out);
void phx_step_record_write_stop(const struct phx_record_head *head, void *buffer,
                                struct phx_step_record *out);
/// Find the arrays of a received record; asserts that its length is what its head says.
void phx_step_record_read(void *buffer, size_t bytes, struct phx_step_record *out);

#endif
