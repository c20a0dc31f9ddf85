#include "launch/server/metrics.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"

/* Upper bounds; 0 ends a row. */
static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                     0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                     20,    40,    80,   160,  640,  2560, 0};
static const double tpot_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
                                     0.1,    0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1,
                                     2.5,    5,     7.5,    10,    20,   40,    80,   0};
static const double e2e_bounds[] = {0.01, 0.05, 0.1, 0.3, 0.5,  0.8,  1,  1.5, 2,
                                    2.5,  5,    10,  15,  20,   30,   40, 50,  60,
                                    120,  240,  480, 960, 1920, 7680, 0};
static const double length_bounds[] = {1,    2,    5,    10,    20,    50,    100,    200,    500,
                                       1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 0};

static void observe(struct phx_histogram *h, const double *bounds, double x)
{
    int i = 0;
    while (bounds[i] != 0 && x > bounds[i]) i++;
    if (bounds[i] == 0) i = PHX_METRICS_BUCKETS;
    h->counts[i]++;
    h->sum += x;
}

void phx_metrics_text_ended(struct phx_metrics *metrics, enum phx_finish finish, int32_t n_prompt,
                            int32_t n_new, double arrived_s, double first_s, double last_s)
{
    struct phx_metrics *m = metrics;
    m->finished[finish]++;
    if (n_new == 0) return;
    observe(&m->e2e, e2e_bounds, last_s - arrived_s);
    observe(&m->prompt_length, length_bounds, n_prompt);
    observe(&m->output_length, length_bounds, n_new);
    if (n_new > 1) observe(&m->tpot, tpot_bounds, (last_s - first_s) / (n_new - 1));
}

void phx_metrics_token(struct phx_metrics *metrics, double arrived_s, double last_s, double now_s)
{
    if (last_s == 0)
        observe(&metrics->ttft, ttft_bounds, now_s - arrived_s);
    else
        observe(&metrics->itl, tpot_bounds, now_s - last_s);
}

void phx_metrics_step(struct phx_metrics *metrics, const struct phx_step_report *report)
{
    metrics->prompt_tokens += report->n_prompt;
    metrics->generation_tokens += report->n_new;
    metrics->n_steps++;
    metrics->busy_seconds += report->seconds;
    metrics->device_seconds += report->device_seconds;
    observe(&metrics->step, tpot_bounds, report->seconds);
}

/* ---- text ---- */

struct printer {
    struct phx_bytes *out;
    char model[256]; /* escaped */
    enum phx_status status;
};

__attribute__((format(printf, 2, 3))) static void line(struct printer *p, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    PHX_ASSERT(n >= 0 && (size_t)n < sizeof text);
    if (p->status == PHX_OK) p->status = phx_bytes_append(p->out, text, (size_t)n);
}

static void head(struct printer *p, const char *name, const char *type, const char *help)
{
    line(p, "# HELP phalanx:%s %s\n# TYPE phalanx:%s %s\n", name, help, name, type);
}

static void value(struct printer *p, const char *name, const char *type, const char *help, double x)
{
    head(p, name, type, help);
    line(p, "phalanx:%s{model_name=\"%s\"} %.17g\n", name, p->model, x);
}

static void histogram(struct printer *p, const char *name, const char *help,
                      const struct phx_histogram *h, const double *bounds)
{
    int64_t n = 0;
    head(p, name, "histogram", help);
    for (int i = 0; bounds[i] != 0; i++) {
        n += h->counts[i];
        line(p, "phalanx:%s_bucket{model_name=\"%s\",le=\"%g\"} %lld\n", name, p->model, bounds[i],
             (long long)n);
    }
    n += h->counts[PHX_METRICS_BUCKETS];
    line(p, "phalanx:%s_bucket{model_name=\"%s\",le=\"+Inf\"} %lld\n", name, p->model,
         (long long)n);
    line(p, "phalanx:%s_sum{model_name=\"%s\"} %.17g\n", name, p->model, h->sum);
    line(p, "phalanx:%s_count{model_name=\"%s\"} %lld\n", name, p->model, (long long)n);
}

static void set_model(struct printer *p, const char *name)
{
    size_t n = 0;
    for (; *name != '\0' && n + 3 < sizeof p->model; name++) {
        if (*name == '"' || *name == '\\') p->model[n++] = '\\';
        p->model[n++] = *name == '\n' ? ' ' : *name;
    }
    p->model[n] = '\0';
}

static void print_now(struct printer *p, const struct phx_metrics *m)
{
    double used = m->n_pages > 0 ? (double)m->n_pages_used / m->n_pages : 0;
    value(p, "num_requests_running", "gauge", "Texts that advance.", m->n_running);
    value(p, "num_requests_waiting", "gauge", "Texts that wait for room.", m->n_waiting);
    value(p, "kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1.", used);
}

static void print_totals(struct printer *p, const struct phx_metrics *m)
{
    value(p, "prompt_tokens_total", "counter", "Tokens of prompts.", (double)m->prompt_tokens);
    value(p, "generation_tokens_total", "counter", "Tokens generated.",
          (double)m->generation_tokens);
    value(p, "num_preemptions_total", "counter", "Times a text had to give its cache back.",
          (double)m->n_preemptions);
    value(p, "prefix_cache_queries_total", "counter", "Prompt tokens looked up in the cache.",
          (double)m->prefix_queries);
    value(p, "prefix_cache_hits_total", "counter", "Prompt tokens found there.",
          (double)m->prefix_hits);
    value(p, "engine_steps_total", "counter", "Steps.", (double)m->n_steps);
    value(p, "engine_busy_seconds_total", "counter", "Seconds in steps.", m->busy_seconds);
    value(p, "engine_device_seconds_total", "counter",
          "Seconds of rank 0's device in steps; in the rest of the loop's seconds it is idle.",
          m->device_seconds);
    value(p, "engine_loop_seconds_total", "counter",
          "Seconds with work: in steps and between them.", m->loop_seconds);
    if (!isnan(m->sum_seconds))
        value(p, "engine_allreduce_seconds_total", "counter",
              "Seconds of rank 0 in sums over ranks, waits for the others included.",
              m->sum_seconds);
    head(p, "request_success_total", "counter", "Texts that ended, by how.");
    for (int f = PHX_FINISH_STOP; f < PHX_METRICS_FINISHES; f++)
        line(p, "phalanx:request_success_total{model_name=\"%s\",finished_reason=\"%s\"} %lld\n",
             p->model, phx_finish_name((enum phx_finish)f), (long long)m->finished[f]);
}

enum phx_status phx_metrics_print(const struct phx_metrics *metrics, const char *model_name,
                                  struct phx_bytes *out)
{
    struct printer p = {.out = out};
    const struct phx_metrics *m = metrics;
    set_model(&p, model_name);
    print_now(&p, m);
    print_totals(&p, m);
    histogram(&p, "time_to_first_token_seconds", "From a request's arrival to its first token.",
              &m->ttft, ttft_bounds);
    histogram(&p, "time_per_output_token_seconds", "Mean of a text's tokens after its first.",
              &m->tpot, tpot_bounds);
    histogram(&p, "inter_token_latency_seconds", "Between two tokens of a text.", &m->itl,
              tpot_bounds);
    histogram(&p, "e2e_request_latency_seconds", "From arrival to the last token.", &m->e2e,
              e2e_bounds);
    histogram(&p, "engine_step_seconds", "One step.", &m->step, tpot_bounds);
    histogram(&p, "request_prompt_tokens", "Tokens of a prompt.", &m->prompt_length, length_bounds);
    histogram(&p, "request_generation_tokens", "Tokens of a continuation.", &m->output_length,
              length_bounds);
    return p.status;
}
