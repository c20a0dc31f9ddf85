/* As attention_tapped.cu. */
#define PHX_TAPPED
#include "kernels/cuda/attention_wgmma.cu"
