#include "launch/logprobs.h"

#include <math.h>

double phx_logprobs_sum(const float *logits, int64_t vocab)
{
    double largest = logits[0], sum = 0;
    for (int64_t i = 1; i < vocab; i++) largest = fmax(largest, logits[i]);
    for (int64_t i = 0; i < vocab; i++) sum += exp(logits[i] - largest);
    return largest + log(sum);
}

int32_t phx_logprobs_top(const float *logits, int64_t vocab, double log_sum, int32_t n,
                         int32_t *ids, float *logprobs)
{
    int32_t found = 0;
    for (int64_t id = 0; id < vocab && n > 0; id++) {
        int32_t at = found < n ? found : n - 1;
        if (found == n && !(logits[id] > logprobs[at])) continue;
        if (found < n) found++;
        for (; at > 0 && logits[id] > logprobs[at - 1]; at--) {
            logprobs[at] = logprobs[at - 1];
            ids[at] = ids[at - 1];
        }
        logprobs[at] = logits[id];
        ids[at] = (int32_t)id;
    }
    for (int32_t i = 0; i < found; i++) logprobs[i] = (float)(logprobs[i] - log_sum);
    return found;
}

double phx_logprobs_json(float logprob)
{
    return fmax((double)logprob, -9999);
}
