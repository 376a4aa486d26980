/*
 * roofline_svg.c: the roofline plot: arithmetic per byte against arithmetic per second, both logarithmic.
 *
 * What lives here: axes, ceilings and points as SVG text, with a title on every point (browsers show it). The form is
 * Williams, Waterman and Patterson 2009, figure 1: what lies on the slope is bound by memory, on the flat by
 * arithmetic. What it must not know: how anything was measured.
 */
#include "measure/measure.h"

#include "base/dtype.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 1000, HEIGHT = 760, LEFT = 84, RIGHT = 700, TOP = 64, BOTTOM = 566 };

struct axes {
    double x_low, x_high, y_low, y_high; /* powers of ten, as exponents */
};

/* Okabe and Ito's colours: told apart by colour-blind readers as well. */
static const struct {
    const char *prefix, *color;
} families[] = {
    {"linear", "#0072b2"},          {"slerp", "#56b4e9"},      {"nuslerp", "#009e73"},
    {"task_arithmetic", "#e69f00"}, {"ties", "#d55e00"},       {"dare_ties", "#cc79a7"},
    {"dare_linear", "#8a5fbf"},     {"mergealign", "#000000"}, {"passthrough", "#777777"},
};
#define N_FAMILIES (sizeof families / sizeof *families)

static size_t family_of(const struct measure_row *row)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strncmp(row->kernel, families[i].prefix, strlen(families[i].prefix)) == 0)
            return i;
    return N_FAMILIES - 1;
}

static double x_at(const struct axes *a, double intensity)
{
    return LEFT + (log10(intensity) - a->x_low) / (a->x_high - a->x_low) * (RIGHT - LEFT);
}

static double y_at(const struct axes *a, double operations_per_second)
{
    return BOTTOM - (log10(operations_per_second) - a->y_low) / (a->y_high - a->y_low) * (BOTTOM - TOP);
}

static double rate_of(const struct measure_row *row)
{
    return row->n_operations / row->cold.seconds;
}

/* Passes without arithmetic (a copy) have no place on a logarithmic axis; "whole" is a sum of others, and
 * "kth cut" looks at a few tiles. */
static bool is_point(const struct measure_row *row)
{
    return row->n_operations > 0 && row->n_bytes > 0 && strcmp(row->part, "whole") != 0 &&
           strcmp(row->part, "kth cut") != 0;
}

static struct axes choose_axes(const struct measure *m)
{
    double ridge = m->peak_operations_per_second / m->copy_bytes_per_second, lowest = m->peak_operations_per_second;
    double left = 0.2, right = 4 * ridge;
    struct axes a;

    for (size_t i = 0; i < m->n_rows; i++)
        if (is_point(&m->rows[i])) {
            double intensity = m->rows[i].n_operations / (double)m->rows[i].n_bytes;
            lowest = fmin(lowest, rate_of(&m->rows[i]));
            left = fmin(left, intensity / 1.5);
            right = fmax(right, intensity * 2);
        }
    a.x_low = log10(left);
    a.x_high = log10(right);
    a.y_low = fmin(floor(log10(lowest)), floor(log10(left * m->copy_bytes_per_second)));
    a.y_high = log10(m->peak_operations_per_second * 3);
    return a;
}

static void label(struct text *out, double x, double y, const char *anchor, const char *color, const char *words)
{
    text_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">", x, y, anchor, color);
    for (; *words; words++) {
        if (*words == '&')
            text_add(out, "&amp;");
        else if (*words == '<')
            text_add(out, "&lt;");
        else
            text_add_bytes(out, words, 1);
    }
    text_add(out, "</text>\n");
}

static const char *rate_label(char buffer[32], double operations)
{
    if (operations >= 1e12)
        snprintf(buffer, 32, "%g Top/s", operations * 1e-12);
    else if (operations >= 1e9)
        snprintf(buffer, 32, "%g Gop/s", operations * 1e-9);
    else
        snprintf(buffer, 32, "%g Mop/s", operations * 1e-6);
    return buffer;
}

static void draw_axes(struct text *out, const struct axes *a)
{
    static const double steps[] = {1, 2, 5};
    char words[32];

    for (int e = (int)floor(a->x_low); e <= (int)ceil(a->x_high); e++)
        for (int i = 0; i < 3; i++) {
            double value = steps[i] * pow(10, e), x = x_at(a, value);
            if (x < LEFT - 0.5 || x > RIGHT + 0.5)
                continue;
            text_addf(out, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#e4e4e4\"/>\n", x, TOP, x,
                      BOTTOM);
            snprintf(words, sizeof words, "%g", value);
            label(out, x, BOTTOM + 18, "middle", "#444", words);
        }
    for (int e = (int)ceil(a->y_low - 1e-9); e <= (int)floor(a->y_high); e++) {
        double y = y_at(a, pow(10, e));
        text_addf(out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>\n", LEFT, y, RIGHT, y);
        label(out, LEFT - 8, y + 4, "end", "#444", rate_label(words, pow(10, e)));
    }
    text_addf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#888\"/>\n", LEFT, TOP,
              RIGHT - LEFT, BOTTOM - TOP);
    label(out, (LEFT + RIGHT) / 2.0, BOTTOM + 42, "middle", "#222", "operational intensity, fp32 operations per byte");
}

/* A bandwidth: a line of slope one, up to the peak of arithmetic. */
static void draw_slope(struct text *out, const struct axes *a, double bytes_per_second, double peak, bool main_roof,
                       const char *words)
{
    double x_low = pow(10, a->x_low), ridge = fmin(peak / bytes_per_second, pow(10, a->x_high));
    double start = fmax(x_low, pow(10, a->y_low) / bytes_per_second);
    double x1 = x_at(a, start), y1 = y_at(a, start * bytes_per_second);
    double x2 = x_at(a, ridge), y2 = y_at(a, ridge * bytes_per_second);
    double angle = atan2(y2 - y1, x2 - x1) * 180 / 3.14159265358979;

    if (start >= ridge)
        return;
    text_addf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%g\"%s/>\n", x1,
              y1, x2, y2, main_roof ? "#222" : "#999", main_roof ? 2.0 : 1.2,
              main_roof ? "" : " stroke-dasharray=\"6 4\"");
    text_addf(out, "<g transform=\"translate(%.1f %.1f) rotate(%.2f)\">", x1, y1, angle);
    label(out, 10, -6, "start", main_roof ? "#222" : "#777", words);
    text_add(out, "</g>\n");
}

static void draw_roofs(const struct measure *m, struct text *out, const struct axes *a)
{
    static const struct {
        const char *id, *what;
    } wires[] = {{"h2d", "host to device"}, {"storage_read", "storage, read"}};
    double peak = m->peak_operations_per_second, ridge = peak / m->copy_bytes_per_second;
    char words[96];

    for (size_t i = 0; i < sizeof wires / sizeof *wires; i++) {
        const struct measure_ceiling *c = measure_find_ceiling(m, wires[i].id);
        if (!c)
            continue;
        snprintf(words, sizeof words, "%s, %.2f GB/s", wires[i].what, c->bytes_per_second * 1e-9);
        draw_slope(out, a, c->bytes_per_second, peak, false, words);
    }
    snprintf(words, sizeof words, "%s copy, %.1f GB/s", m->on_gpu ? "device" : "memory",
             m->copy_bytes_per_second * 1e-9);
    draw_slope(out, a, m->copy_bytes_per_second, peak, true, words);
    text_addf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#222\" stroke-width=\"2\"/>\n",
              x_at(a, fmax(ridge, pow(10, a->x_low))), y_at(a, peak), RIGHT, y_at(a, peak));
    snprintf(words, sizeof words, "fp32 without fma, %.3g Gop/s", peak * 1e-9);
    label(out, RIGHT - 8, y_at(a, peak) - 7, "end", "#222", words);
}

static void draw_points(const struct measure *m, struct text *out, const struct axes *a)
{
    uint64_t largest = 1;
    char size[24];

    for (size_t i = 0; i < m->n_rows; i++)
        largest = m->rows[i].tensor_bytes > largest ? m->rows[i].tensor_bytes : largest;
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct measure_row *row = &m->rows[i];
        const char *color = families[family_of(row)].color;
        bool combine = strcmp(row->part, "combine") == 0;
        double x, y, r;
        if (!is_point(row))
            continue;
        x = x_at(a, row->n_operations / (double)row->n_bytes);
        y = y_at(a, rate_of(row));
        r = 2.5 + 4.5 * log2((double)row->tensor_bytes) / log2((double)largest);
        r = row->tensor_bytes == largest ? 7 : r - 3;
        if (combine)
            text_addf(out,
                      "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\" fill-opacity=\"0.75\" stroke=\"#fff\">",
                      x, y, r, color);
        else
            text_addf(out,
                      "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" fill-opacity=\"0.45\" "
                      "stroke=\"#fff\">",
                      x - r * 0.8, y - r * 0.8, 1.6 * r, 1.6 * r, color);
        text_addf(out, "<title>%s, %s, %s, %s: %.1f GB/s, %.0f %% of copy</title></%s>\n", row->kernel, row->part,
                  dtype_name(row->dtype), text_bytes(size, sizeof size, row->tensor_bytes),
                  (double)row->n_bytes / row->cold.seconds * 1e-9, 100 * measure_row_share(m, row),
                  combine ? "circle" : "rect");
    }
}

/* To the right of the plot: colours, and the combine of every kernel at the largest size in numbers. */
static void draw_legend(const struct measure *m, struct text *out)
{
    const struct measure_row *last = NULL;
    double y = TOP + 12;
    char size[24], words[96];

    for (size_t i = 0; i < m->n_rows; i++)
        if (!last || (m->rows[i].dtype == WM_BF16 && m->rows[i].tensor_bytes > last->tensor_bytes))
            last = &m->rows[i];
    if (!last)
        return;
    snprintf(words, sizeof words, "share of copy, %s, %s", dtype_name(last->dtype),
             text_bytes(size, sizeof size, last->tensor_bytes));
    label(out, RIGHT + 22, y, "start", "#222", words);
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct measure_row *row = &m->rows[i];
        if (row->dtype != last->dtype || row->tensor_bytes != last->tensor_bytes ||
            row->tile_elems != last->tile_elems || strcmp(row->part, "combine") != 0)
            continue;
        y += 20;
        text_addf(out, "<circle cx=\"%d\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n", RIGHT + 28, y - 4,
                  families[family_of(row)].color);
        label(out, RIGHT + 40, y, "start", "#222", row->kernel);
        snprintf(words, sizeof words, "%.0f %%", 100 * measure_row_share(m, row));
        label(out, WIDTH - 16, y, "end", "#222", words);
    }
    y += 32;
    text_addf(out, "<circle cx=\"%d\" cy=\"%.1f\" r=\"5\" fill=\"#777\"/>\n", RIGHT + 28, y - 4);
    label(out, RIGHT + 40, y, "start", "#222", "combine");
    text_addf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"9\" height=\"9\" fill=\"#bbb\"/>\n", RIGHT + 112, y - 9);
    label(out, RIGHT + 128, y, "start", "#222", "statistics pass");
    label(out, RIGHT + 22, y + 20, "start", "#222", "large mark: large tensor");
}

void measure_svg(const struct measure *m, struct text *out)
{
    struct axes a = choose_axes(m);

    text_addf(out,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
              "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n"
              "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
              WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
    text_add(out, "<g font-size=\"17\">");
    label(out, LEFT, 30, "start", "#111", "warpmerge " WM_VERSION ": roofline");
    text_add(out, "</g>\n");
    label(out, LEFT, 50, "start", "#444", m->device);
    draw_axes(out, &a);
    draw_roofs(m, out, &a);
    draw_points(m, out, &a);
    draw_legend(m, out);
    text_add(out, "</svg>\n");
}
