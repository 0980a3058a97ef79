// The gradient of an attention of a block of candidates over one sequence. The hidden layer is computed again, tile by
// tile: that costs less than fetching it.
#pragma once

#include "attention.h"

// What all users add to: (hidden, 2 * queries * width), (hidden), (hidden), and one number.
struct UnitGradient {
    float *first, *bias, *second, *second_bias;
};

inline float total(Vector x) {
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) sum += x[lane];
    return sum;
}

// The first `count` numbers, then zeros.
inline Vector load_part(const float *at, int64_t count) {
    if (count >= LANES) return load(at);
    float part[LANES] = {};
    if (count > 0) std::memcpy(part, at, count * sizeof(float));
    return load(part);
}

// Adds the products of weights (width, UNITS), the first N of them, with N rows of a tile to a tile (width, TILE).
template <int N = UNITS>
[[gnu::noinline]] inline void spread(const float *weight, const Vector (*row)[COLUMNS], int64_t width, float *tile) {
    Vector rows[N][COLUMNS];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) std::copy(row[i], row[i] + COLUMNS, rows[i]);
    for (int64_t j = 0; j < width; ++j, weight += UNITS, tile += TILE) {
        Vector s0 = load(tile), s1 = load(tile + LANES), s2 = load(tile + 2 * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) {
            s0 += weight[i] * rows[i][0];
            s1 += weight[i] * rows[i][1];
            s2 += weight[i] * rows[i][2];
        }
        store(tile, s0);
        store(tile + LANES, s1);
        store(tile + 2 * LANES, s2);
    }
}

// Adds the products of rows of a tile (UNITS, TILE) with `count` keys (count, columns) to (UNITS, columns).
[[gnu::noinline]] inline void collect(const float *row, const float *keys, int64_t count, int64_t columns, float *out) {
    for (int64_t column = 0; column < columns; column += 2 * LANES) {
        Vector sum[UNITS][2];
#pragma GCC unroll 8
        for (int i = 0; i < UNITS; ++i) {
            sum[i][0] = load(out + i * columns + column);
            sum[i][1] = load(out + i * columns + column + LANES);
        }
        const float *key = keys + column;
        for (int64_t l = 0; l < count; ++l, key += columns) {
            const Vector left = load(key), right = load(key + LANES);
#pragma GCC unroll 8
            for (int i = 0; i < UNITS; ++i) {
                sum[i][0] += row[i * TILE + l] * left;
                sum[i][1] += row[i * TILE + l] * right;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < UNITS; ++i) {
            store(out + i * columns + column, sum[i][0]);
            store(out + i * columns + column + LANES, sum[i][1]);
        }
    }
}

class AttentionGradient {
  public:
    AttentionGradient(Attention &attention, const UnitGradient &sums)
        : attention(attention), sums(sums), upstream(BLOCK * attention.keys.width),
          weights(BLOCK * attention.groups * attention.keys.columns), offsets(BLOCK * attention.groups),
          second(attention.groups), tile(attention.keys.width * TILE) {}

    // Of `count` candidates: `lanes` are the queries, (width, BLOCK) each; `rows` the same, (count, width) each; given
    // the gradient of the readouts (count, width) and the weights that were attended with (count, stride). Adds to
    // those of the keys (length, width) and of the queries (count, width) each, and puts down that of what is added to
    // the logits, (count, stride), or null.
    void operator()(const float *const *lanes, const float *const *rows, const float *gradient, const float *attended,
                    int64_t stride, int64_t count, float *d_keys, float *const *d_rows, float *d_match) {
        const Keys &keys = attention.keys;
        const int64_t d = keys.width;
        attention.prepare(lanes, count);
        std::fill(upstream.begin(), upstream.end(), 0.0f);
        for (int64_t c = 0; c < count; ++c)
            for (int64_t j = 0; j < d; ++j) upstream[c / UNITS * UNITS * d + j * UNITS + c % UNITS] = gradient[c * d + j];
        std::fill_n(weights.begin(), count * attention.groups * keys.columns, 0.0f);
        std::fill_n(offsets.begin(), count * attention.groups, Vector{});
        std::fill(second.begin(), second.end(), Vector{});
        second_bias = Vector{};
        for (int64_t start = 0; start < keys.span; start += TILE) {
            std::fill(tile.begin(), tile.end(), 0.0f);
            for (int64_t from = 0; from < count; from += UNITS)
                step(start, from, std::min<int64_t>(UNITS, count - from), attended, stride, d_match);
            const int64_t end = std::min<int64_t>(TILE, keys.length - start);
            for (int64_t l = 0; l < end; ++l)
                for (int64_t j = 0; j < d; ++j) d_keys[(start + l) * d + j] += tile[j * TILE + l];
        }
        for (int64_t i = 0; i < attention.hidden; ++i) sums.second[i] += total(second[i]);
        *sums.second_bias += total(second_bias);
        for (int64_t c = 0; c < count; ++c) back_to_queries(c, rows, d_rows);
    }

  private:
    Attention &attention;
    const UnitGradient sums;
    std::vector<float> upstream;  // the gradient of the readouts, as weights: (BLOCK / UNITS, width, UNITS)
    std::vector<float> weights;   // of layer 1: (BLOCK, groups, columns), not yet times TO_EXPONENT
    std::vector<Vector> offsets, second;
    Vector second_bias;
    std::vector<float> tile;  // of the keys: (width, TILE)

    // UNITS candidates, or fewer, and one tile.
    void step(int64_t start, int64_t from, int64_t count, const float *attended, int64_t stride, float *d_match) {
        const Keys &keys = attention.keys;
        const int64_t d = keys.width, length = std::min<int64_t>(TILE, keys.length - start);
        const float none[UNITS] = {}, *key = keys.tiles + start * d;
        Vector slope[UNITS][COLUMNS], read[UNITS][COLUMNS] = {};
        if (count > 1)
            product(upstream.data() + from * d, none, key, d, slope);
        else
            product<1>(upstream.data() + from * d, none, key, d, slope);
        for (int64_t c = 0; c < count; ++c) {
            const int64_t at = (from + c) * stride + start;
            for (int v = 0; v < COLUMNS; ++v) {
                read[c][v] = load_part(attended + at + v * LANES, length - v * LANES);
                slope[c][v] *= read[c][v] * (1.0f - read[c][v]);
                second_bias += slope[c][v];
            }
            if (!d_match) continue;
            float out[TILE];
            for (int v = 0; v < COLUMNS; ++v) store(out + v * LANES, slope[c][v]);
            std::copy(out, out + length, d_match + at);
        }
        if (count > 1)
            spread(upstream.data() + from * d, read, d, tile.data());
        else
            spread<1>(upstream.data() + from * d, read, d, tile.data());
        for (int64_t c = 0; c < count; ++c) hidden_layer(start, from + c, slope[c], length);
    }

    void hidden_layer(int64_t start, int64_t candidate, const Vector *slope, int64_t length) {
        const Keys &keys = attention.keys;
        const int64_t d = keys.width;
        for (int64_t group = 0; group < attention.groups; group += UNITS) {
            const int64_t at = candidate * attention.groups + group;
            const float *weight = attention.weights.data() + at * d;
            Vector sum[UNITS][COLUMNS];
            product(weight, attention.offsets.data() + at, keys.tiles + start * d, d, sum);
            float row[UNITS * TILE];
            for (int i = 0; i < UNITS; ++i) {
                const bool there = group + i < attention.hidden;
                const float over = there ? attention.unit.second[group + i] / TO_EXPONENT : 0.0f;
                for (int v = 0; v < COLUMNS; ++v) {
                    const Vector active = inverse(1.0f + exp2(sum[i][v]));
                    second[group + i] += slope[v] * active;
                    sum[i][v] = over * slope[v] * active * (1.0f - active);
                    offsets[at + i] += sum[i][v];
                    store(row + i * TILE + v * LANES, sum[i][v]);
                }
            }
            spread(weight, sum, d, tile.data());
            collect(row, keys.rows + start * keys.columns, length, keys.columns, weights.data() + at * keys.columns);
        }
    }

    // From layer 1 as it was made of the queries of a candidate, to the queries and layer 1 itself.
    void back_to_queries(int64_t candidate, const float *const *rows, float *const *d_rows) {
        const int64_t d = attention.keys.width, queries = attention.queries;
        for (int64_t i = 0; i < attention.hidden; ++i) {
            const int64_t at = candidate * attention.groups + i;
            const float offset = TO_EXPONENT * total(offsets[at]), *weight = weights.data() + at * attention.keys.columns;
            sums.bias[i] += offset;
            for (int64_t q = 0; q < queries; ++q) {
                const float *u = rows[q] + candidate * d, *first = attention.unit.first + (i * queries + q) * 2 * d;
                float *d_first = sums.first + (i * queries + q) * 2 * d, *d_u = d_rows[q] + candidate * d;
                for (int64_t j = 0; j < d; ++j) {
                    const float w = TO_EXPONENT * weight[j];
                    d_u[j] += offset * first[j] + w * first[d + j];
                    d_first[j] += offset * u[j] - w;
                    d_first[d + j] += w * u[j];
                }
            }
        }
    }
};
