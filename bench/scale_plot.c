/* The picture of bench/scale.sh, as a script for gnuplot: speed-up with what is predicted, and
 * where a step goes as bars, a panel each for every test. */
#include <math.h>
#include <stdio.h>

#include "bench/scale_rows.h"
#include "kernels/base/check.h"

static void plot_data(FILE *file, const struct scale_test *t, int n_nodes, int index)
{
    const struct scale_point *base = scale_base(t);
    fprintf(file, "$speed%d << EOD\n", index);
    for (int i = 0; i < t->n_points; i++) {
        const struct scale_point *p = &t->points[i];
        if (p->n > 0)
            fprintf(file, "%d %g %g\n", p->size, base->mean_ms / p->mean_ms,
                    base->mean_ms / p->mean_ms * p->spread_ms / p->mean_ms);
    }
    fprintf(file, "EOD\n$predicted%d << EOD\n", index);
    for (int i = 0; i < t->n_points; i++)
        if (t->points[i].predicted_ms > 0)
            fprintf(file, "%d %g\n", t->points[i].size, base->mean_ms / t->points[i].predicted_ms);
    fprintf(file, "EOD\n$nodes%d << EOD\n", index);
    for (int i = 0; i < t->n_points; i++)
        if (t->points[i].nodes_ms > 0)
            fprintf(file, "%d %g\n", n_nodes * t->points[i].size,
                    base->mean_ms / t->points[i].nodes_ms);
    fprintf(file, "EOD\n$stages%d << EOD\nranks", index);
    for (int s = 0; s < SCALE_STAGES; s++) fprintf(file, " %s", scale_stages[s]);
    fprintf(file, "\n");
    for (int i = 0; i < t->n_points; i++) {
        if (!(scale_stages_sum(&t->points[i]) > 0)) continue;
        fprintf(file, "%d", t->points[i].size);
        /* What is lost in the noise cannot be drawn below nothing. */
        for (int s = 0; s < SCALE_STAGES; s++)
            fprintf(file, " %g", fmax(0, t->points[i].stage_ms[s]));
        fprintf(file, "\n");
    }
    fprintf(file, "EOD\n");
}

static bool has_stages(const struct scale_test *t)
{
    return scale_stages_sum(scale_base(t)) > 0;
}

static void plot_speedup(FILE *file, const struct scale *scale, const struct scale_nodes *nodes,
                         int index)
{
    char title[SCALE_TITLE_BYTES], error[64] = "";
    scale_title(&scale->tests[index], title);
    if (!isnan(scale->worst_error))
        snprintf(error, sizeof error, ", off by up to %.0f %%", 100 * scale->worst_error);
    fprintf(file,
            "set title \"%s\" noenhanced\nset xlabel 'ranks'\nset ylabel 'speed-up'\n"
            "set logscale xy 2\nset xtics (1,2,4,8,16,32)\nset yrange [0.5:32]\nset xrange "
            "[0.8:40]\n"
            "plot x with lines lc rgb '#bbbbbb' title 'ideal', $predicted%d with linespoints dt "
            "2 pt 6 lc rgb '#cc7722' title 'predicted%s', ",
            title, index, error);
    if (nodes->n > 1)
        fprintf(
            file,
            "$nodes%d with linespoints dt 3 pt 4 lc rgb '#228844' title 'predicted, %d nodes', ",
            index, nodes->n);
    fprintf(file,
            "$speed%d with yerrorbars pt 7 lc rgb '#1f5fa8' title 'measured'\nunset logscale\n",
            index);
}

enum phx_status scale_plot(const struct scale *scale, const struct scale_nodes *nodes,
                           const char *heading, const char *path)
{
    FILE *file = fopen(path, "w");
    char title[SCALE_TITLE_BYTES];
    if (file == NULL) return phx_fail(PHX_IO, "%s cannot be written", path);
    for (int i = 0; i < scale->n_tests; i++) plot_data(file, &scale->tests[i], nodes->n, i);
    fprintf(
        file,
        "set multiplot layout 2,%d title \"%s\" noenhanced\n"
        "set style fill solid 0.9\nset grid ytics\nset key top left Left reverse\nset bars small\n",
        scale->n_tests, heading);
    for (int i = 0; i < scale->n_tests; i++) plot_speedup(file, scale, nodes, i);
    fprintf(file, "set style data histograms\nset style histogram rowstacked\nset boxwidth 0.6\n"
                  "set xrange [-0.6:*]\nset yrange [0:*]\nset xtics autofreq\nset ylabel 'ms a "
                  "step'\nset key outside right Left reverse\n");
    for (int i = 0; i < scale->n_tests; i++) {
        scale_title(&scale->tests[i], title);
        if (!has_stages(&scale->tests[i])) {
            fprintf(file, "set multiplot next\n");
            continue;
        }
        fprintf(file,
                "set title \"%s\" noenhanced\nplot for [i=2:%d] $stages%d using i:xtic(1) "
                "title columnheader(i)\n",
                title, SCALE_STAGES + 1, i);
    }
    fprintf(file, "unset multiplot\n");
    return fclose(file) == 0 ? PHX_OK : phx_fail(PHX_IO, "%s cannot be written", path);
}
