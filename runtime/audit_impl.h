/// \file audit_impl.h
/// What audit.c (running, reporting) and audit_judge.c (judging) share. Only they include this.
#ifndef PHX_RUNTIME_AUDIT_IMPL_H
#define PHX_RUNTIME_AUDIT_IMPL_H

#include "runtime/audit.h"
#include "runtime/capture.h"
#include "runtime/reference.h"

enum { PHX_AUDIT_TEXTS = 2, PHX_AUDIT_CHOICES = 3 };

/// First token, one in the middle of a block, one in the second block; the last ones are added.
extern const int32_t phx_audit_choices[PHX_AUDIT_CHOICES];

struct phx_audit_text {
    struct phx_request *request;
    int32_t slot;       ///< -1: never ran
    int32_t n_prompt;   ///< tokens
    int32_t n_computed; ///< tokens whose keys are in the cache at the end
};

struct phx_audit {
    struct phx_engine_parts parts;
    struct phx_engine *engine;
    struct phx_audit_options options;
    bool *layers;
    struct phx_capture *capture;
    struct phx_audit_text texts[PHX_AUDIT_TEXTS]; ///< rank 0; the prompt, then the decoy
    struct phx_audit_check checks[PHX_CHECK_COUNT];
    struct phx_audit_twins *twins;
    size_t n_twins;
    bool passed;
};

/// All passed, nothing compared yet.
void phx_audit_checks_reset(struct phx_audit_check checks[PHX_CHECK_COUNT]);

/// Rank 0: fill in the checks.
enum phx_status phx_audit_judge_all(struct phx_audit *audit, const struct phx_reference *reference);

#endif
