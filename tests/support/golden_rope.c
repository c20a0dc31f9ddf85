#include "tests/support/golden_rope.h"

#include "kernels/base/dtype.h"
#include "runtime/config.h"

void __real_phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                                float *attention_factor);
void __wrap_phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                                float *attention_factor);

bool test_golden_rope_rounded = true;

void __wrap_phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                                float *attention_factor)
{
    __real_phx_config_inv_freq(config, layer, inv_freq, attention_factor);
    int32_t half = phx_config_rotated(config, layer) / 2;
    for (int32_t i = 0; i < half && test_golden_rope_rounded; i++)
        inv_freq[i] = phx_f32_from_bf16(phx_bf16_from_f32(inv_freq[i]));
}
