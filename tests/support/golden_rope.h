/// \file golden_rope.h
/// The first goldens of tests/data/hf come from models that had been cast to bf16 as a whole before
/// they computed in f32: their rotary frequencies, a buffer, were rounded too. Published models
/// keep them in f32, and so do Phalanx and the later goldens. Linked with --wrap, golden_rope.c
/// rounds them as the goldens' maker did; with it the logits agree to 1e-6 of their range, without
/// it to 2e-4.
#ifndef PHX_TESTS_SUPPORT_GOLDEN_ROPE_H
#define PHX_TESTS_SUPPORT_GOLDEN_ROPE_H

#include <stdbool.h>

/// True at first.
extern bool test_golden_rope_rounded;

#endif
