/// \file steps.h
/// Normalizers and pre-tokenizers, as steps over a text that is cut into pieces.
#ifndef PHX_RUNTIME_TOKENIZER_STEPS_H
#define PHX_RUNTIME_TOKENIZER_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"
#include "runtime/tokenizer/pattern.h"
#include "runtime/tokenizer/unicode.h"

struct phx_spm_rules;

struct phx_piece {
    size_t start, n; ///< bytes of the text
    int32_t id;      ///< of an added token that stood here; -1: text, never empty
    bool first;      ///< its first character stands for the first one of the whole text
};

struct phx_pieces {
    struct phx_piece *data;
    size_t n, capacity;
};

/// Zeroed: no text, no pieces.
struct phx_text {
    struct phx_bytes bytes;
    struct phx_pieces pieces;
    struct phx_bytes spare_bytes; ///< what a step writes before it takes the place of the above
    struct phx_pieces spare_pieces;
    struct phx_matcher *matcher; ///< made with the text
};

enum phx_status phx_text_create(const char *data, size_t n, struct phx_text *out);
void phx_text_destroy(struct phx_text *text);
/// Append a piece to the ones that are being made; an empty text is dropped.
enum phx_status phx_text_put(struct phx_text *text, struct phx_piece piece);
/// The pieces that were put take the place of the old ones.
void phx_text_take_pieces(struct phx_text *text);

enum phx_step_kind {
    PHX_STEP_FORM,       ///< form
    PHX_STEP_LOWERCASE,  ///< each character
    PHX_STEP_TRIM,       ///< trim_left, trim_right: white space
    PHX_STEP_PREPEND,    ///< content; unless_there, first_only
    PHX_STEP_REPLACE,    ///< pattern by content
    PHX_STEP_CHARACTERS, ///< bytes to the characters of the byte-level alphabet
    PHX_STEP_SPLIT,      ///< at pattern; behavior, invert
    PHX_STEP_MAP,        ///< rules->map alone, as the library
    PHX_STEP_RULES,      ///< rules, as sentencepiece
};

/// What becomes of the matches that a text is split at.
enum phx_split { PHX_REMOVED, PHX_ISOLATED, PHX_WITH_PREVIOUS, PHX_WITH_NEXT, PHX_CONTIGUOUS };

struct phx_step {
    enum phx_step_kind kind;
    enum phx_form form;
    bool trim_left, trim_right;
    bool unless_there; ///< not where the piece begins with content already
    bool first_only;   ///< only to the piece that begins the whole text
    enum phx_split behavior;
    bool invert;                 ///< what does not match counts as matches, and the other way round
    struct phx_pattern *pattern; ///< owned
    char *content;               ///< owned
    struct phx_spm_rules *rules; ///< owned
};

struct phx_steps {
    struct phx_step *data;
    size_t n, capacity;
};

void phx_steps_destroy(struct phx_steps *steps);
enum phx_status phx_steps_run(const struct phx_steps *steps, struct phx_text *text);

#endif
