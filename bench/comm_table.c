#include "bench/comm_table.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/check.h"

static enum phx_status read_size(const char *flag, const char *text, size_t *out)
{
    char *unit;
    unsigned long long value = strtoull(text, &unit, 10);
    int shift = *unit == 'K' ? 10 : *unit == 'M' ? 20 : *unit == 'G' ? 30 : 0;
    if (unit == text || unit[shift > 0] != '\0' || value == 0 || value > (1ull << 33) ||
        value << shift > (1ull << 33) || (value << shift) % 8 != 0)
        return phx_fail(PHX_USAGE, "-%s %s: must be a multiple of 8 bytes, like 8, 64K or 4M", flag,
                        text);
    *out = (size_t)(value << shift);
    return PHX_OK;
}

enum phx_status comm_sizes_parse(int argc, char **argv, struct comm_sizes *sizes)
{
    for (int c; (c = getopt(argc, argv, "b:e:f:j")) != -1;) {
        if (c == 'b') PHX_TRY(read_size("b", optarg, &sizes->smallest));
        if (c == 'e') PHX_TRY(read_size("e", optarg, &sizes->largest));
        if (c == 'j') sizes->json = true;
        if (c == 'f') sizes->factor = atoi(optarg);
        if (c == '?')
            return phx_fail(PHX_USAGE,
                            "options: -b smallest -e largest -f factor -j, as -b 1K -e 4M");
    }
    if (optind < argc)
        return phx_fail(PHX_USAGE, "%s: no option; sizes are given as -b 1K -e 4M", argv[optind]);
    if (sizes->factor < 2 || sizes->largest < sizes->smallest)
        return phx_fail(PHX_USAGE, "-f must be 2 or more, and -e at least -b");
    return PHX_OK;
}

void comm_table_head(const struct comm_sizes *sizes, const char *name, const char *more)
{
    if (sizes->json) return;
    printf("\n# %s\n#%11s %11s %8s %10s %8s %8s %7s %9s\n#%11s %11s %8s %10s %8s %8s %7s %9s\n",
           name, "size", "count", "type", "time", "algbw", "busbw", "#wrong", more, "(B)",
           "(elements)", "", "(us)", "(GB/s)", "(GB/s)", "", more[0] != '\0' ? "(us)" : "");
}

void comm_table_row(const struct comm_sizes *sizes, const struct comm_row *row)
{
    double algbw = (double)row->bytes / row->us * 1e-3, others = row->size - 1;
    double busbw = algbw * 2 * others / (1 + others);
    if (sizes->json) {
        printf("{\"way\": \"%s\", \"type\": \"%s\", \"tp_size\": %d, \"bytes\": %zu, \"us\": %.3f, "
               "\"algbw\": %.3f, \"busbw\": %.3f, \"wrong\": %lld",
               row->way, row->type, row->size, row->bytes, row->us, algbw, busbw,
               (long long)row->n_wrong);
        if (row->norm_us > 0) printf(", \"norm_us\": %.3f", row->norm_us);
        printf("}\n");
    } else {
        printf(" %11zu %11zu %8s %10.2f %8.2f %8.2f %7lld", row->bytes,
               row->bytes / row->element_bytes, row->type, row->us, algbw, busbw,
               (long long)row->n_wrong);
        if (row->norm_us > 0) printf(" %9.2f", row->norm_us);
        printf("\n");
    }
    fflush(stdout);
}
