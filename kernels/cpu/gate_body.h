/* The gate of gate_up, compiled by each tile_*.c for its instruction set: compilers make vectors of
 * it. The same bits with all of them, since none may fuse a multiply with an add. */

/* Within 2 units in the last place, without branches. Below -87 it stays at exp(-87), from 88.4 on
 * it is infinite; NaN stays NaN. */
static inline float exp_approx(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it leaves an integer in the low bits */
    x = x > 89.0f ? 89.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float shifted = x * 1.44269504f + shift;
    float n = shifted - shift;
    float r = x - n * 0.693359375f; /* ln 2 in two parts */
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f; /* minimax on [-ln 2 / 2, ln 2 / 2], Cephes expf */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t exponent = (phx_bits_from_f32(shifted) + 127u) << 23;
    return p * phx_f32_from_bits(exponent);
}

/* tanh(u) = 2 / (1 + exp(-2u)) - 1 turns gelu_tanh into z / (1 + exp(-2u)): both activations are z
 * times a sigmoid. */
static inline void gate_values(enum phx_activation activation, const float *z, const float *up,
                               int64_t n, float *out)
{
    if (activation == PHX_SILU) {
        for (int64_t i = 0; i < n; i++) out[i] = z[i] / (1.0f + exp_approx(-z[i])) * up[i];
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        float twice_u = 1.59576912f * (z[i] + 0.044715f * z[i] * z[i] * z[i]);
        out[i] = z[i] / (1.0f + exp_approx(-twice_u)) * up[i];
    }
}
