/* The stored goldens of tests/data/hf come from models that had been cast to bf16 as a whole before
 * they computed in f32: their rotary frequencies, a buffer, were rounded too. Published models keep
 * them in f32, and so does Phalanx. Linked with --wrap, this rounds them as the goldens' maker did;
 * with it the logits agree to 1e-6 of their range, without it to 2e-4. */
#include "kernels/base/dtype.h"
#include "runtime/config.h"

void __real_phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                                float *attention_factor);
void __wrap_phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                                float *attention_factor);

void __wrap_phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                                float *attention_factor)
{
    __real_phx_config_inv_freq(config, layer, inv_freq, attention_factor);
    for (int32_t i = 0; i < config->layers[layer].shape.head_dim / 2; i++)
        inv_freq[i] = phx_f32_from_bf16(phx_bf16_from_f32(inv_freq[i]));
}
