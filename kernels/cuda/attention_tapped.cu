/* Attention once more, from the same source, with taps: what an audit sees is what runs. */
#define PHX_TAPPED
#include "kernels/cuda/attention.cu"
