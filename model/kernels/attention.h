// One attention of a block of candidates over one sequence: both layers, their sigmoids, and the readout.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "simd.h"

#if defined(__AVX512F__)
constexpr int UNITS = 8;  // hidden units at a time: 8 x 3 sums, 3 keys and a weight fit into 32 registers
#else
constexpr int UNITS = 4;  // 4 x 3 sums, 3 keys and a weight fill 16 registers
#endif
constexpr int COLUMNS = 3;             // vectors of behaviours at a time
constexpr int TILE = LANES * COLUMNS;  // behaviours at a time
constexpr int BLOCK = LANES;           // candidates at a time, a lane each where candidates lie side by side

// Layer 1 has the weight blocks A, B (hidden, width) of each query side by side; layer 2 one weight a hidden unit.
struct Unit {
    const float *first, *bias, *second, *second_bias;
    const float *scale, *shift;  // of the LayerNorm on the readout, or null
    float epsilon;
};

// The keys of one user: by tile (tiles, width, TILE) for the product, by row (length, columns) for the readout; zeros
// beyond the sequence and the width.
struct Keys {
    int64_t length, width, columns, span;  // span: the length in whole tiles
    const float *tiles, *rows;
};

// Fills tiles, and rows unless they are null, with (length, width) keys, zeros where masked; without a mask, with all.
inline void lay_out(const Keys &to, const float *keys, const uint8_t *mask, float *tiles, float *rows) {
    if (rows) std::fill_n(rows, to.length * to.columns, 0.0f);
    for (int64_t start = 0; start < to.span; start += TILE) {
        float *tile = tiles + start * to.width;
        if (start + TILE > to.length) std::fill_n(tile, to.width * TILE, 0.0f);
        for (int64_t l = start; l < std::min(start + TILE, to.length); ++l) {
            const float *key = keys + l * to.width;
            if (rows && (!mask || mask[l])) std::copy(key, key + to.width, rows + l * to.columns);
            for (int64_t j = 0; j < to.width; ++j) tile[j * TILE + l - start] = !mask || mask[l] ? key[j] : 0.0f;
        }
    }
}

// Keys with the memory that they lie in.
struct OwnKeys : Keys {
    std::vector<float> tile_memory, row_memory;

    OwnKeys(const float *keys, const uint8_t *mask, int64_t length, int64_t width)
        : Keys{length, width, padded(width, 2 * LANES), padded(length, TILE), nullptr, keys}, tile_memory(span * width) {
        const bool copied = columns != width || std::count(mask, mask + length, 0);  // else they are as they should be
        if (copied) {
            row_memory.resize(length * columns);
            rows = row_memory.data();
        }
        tiles = tile_memory.data();
        lay_out(*this, keys, mask, tile_memory.data(), copied ? row_memory.data() : nullptr);
    }
};

// The sums of N hidden units, or all UNITS, for a tile. Not inlined: all registers are needed here, none can be kept for
// others.
template <int N = UNITS>
[[gnu::noinline]] inline void product(const float *weight, const float *offset, const float *key, int64_t width,
                                      Vector (*out)[COLUMNS]) {
    Vector sum[N][COLUMNS];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) sum[i][0] = sum[i][1] = sum[i][2] = all(offset[i]);
    for (int64_t j = 0; j < width; ++j, weight += UNITS, key += TILE) {
        const Vector k0 = load(key), k1 = load(key + LANES), k2 = load(key + 2 * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) {
            sum[i][0] += weight[i] * k0;
            sum[i][1] += weight[i] * k1;
            sum[i][2] += weight[i] * k2;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) std::copy(sum[i], sum[i] + COLUMNS, out[i]);
}

// LayerNorm of `rows` numbers of each candidate, (rows, BLOCK) with a lane each, in place.
inline void normalise(const float *scale, const float *shift, float epsilon, int64_t rows, float *x) {
    Vector mean{}, variance{};
    for (int64_t j = 0; j < rows; ++j) mean += load(x + j * BLOCK);
    mean /= static_cast<float>(rows);
    for (int64_t j = 0; j < rows; ++j) {
        const Vector apart = load(x + j * BLOCK) - mean;
        variance += apart * apart;
    }
    variance = variance / static_cast<float>(rows) + epsilon;
    Vector deviation{};
    for (int c = 0; c < LANES; ++c) deviation[c] = std::sqrt(variance[c]);
    for (int64_t j = 0; j < rows; ++j) {
        const Vector apart = load(x + j * BLOCK) - mean;
        store(x + j * BLOCK, apart / deviation * scale[j] + shift[j]);
    }
}

class Attention {
  public:
    const Unit &unit;
    const Keys &keys;
    const int64_t hidden, queries, groups;  // groups: hidden units, in whole UNITS
    // Layer 1 as the queries make it, already times TO_EXPONENT: weights (BLOCK, groups / UNITS, width, UNITS), offsets
    // (BLOCK, groups). What came of it: the weights with which behaviours are read, (count, span).
    std::vector<float> weights, offsets, second, attended;

    Attention(const Unit &unit, const Keys &keys, int64_t hidden, int64_t queries)
        : unit(unit), keys(keys), hidden(hidden), queries(queries), groups(padded(hidden, UNITS)),
          weights(BLOCK * groups * keys.width), offsets(BLOCK * groups), second(groups) {
        for (int64_t i = 0; i < hidden; ++i) second[i] = TO_EXPONENT * unit.second[i];
    }

    // Readouts of `count` candidates, (width, BLOCK) with a lane each, of `queries` of that shape; `match` has a row of
    // `stride` a candidate, or is null.
    void operator()(const float *const *query, const float *match, int64_t stride, int64_t count, float *readout) {
        prepare(query, count);
        attended.resize(count * keys.span);
        for (int64_t start = 0; start < keys.span; start += TILE)
            for (int64_t c = 0; c < count; ++c) attend(start, c, match ? match + c * stride : nullptr);
        for (int64_t c = 0; c < count; c += 4) read(c, std::min<int64_t>(4, count - c), readout);
        if (unit.scale) normalise(unit.scale, unit.shift, unit.epsilon, keys.width, readout);
    }

    // Makes layer 1 what these queries make of it, affine in the key.
    void prepare(const float *const *query, int64_t count) {
        const int64_t d = keys.width, row = 2 * queries * d;
        for (int64_t i = 0; i < hidden; ++i) {
            const float *first = unit.first + i * row;
            const int64_t group = i / UNITS * UNITS * d + i % UNITS;
            Vector bias = all(unit.bias[i]);
            for (int64_t j = 0; j < d; ++j) {
                Vector weight{};
                for (int64_t q = 0; q < queries; ++q) {
                    const float difference = first[2 * q * d + j], product = first[(2 * q + 1) * d + j];
                    const Vector u = load(query[q] + j * BLOCK);
                    weight += product * u - difference;
                    bias += difference * u;
                }
                weight *= TO_EXPONENT;
                for (int64_t c = 0; c < count; ++c) weights[c * groups * d + group + j * UNITS] = weight[c];
            }
            bias *= TO_EXPONENT;
            for (int64_t c = 0; c < count; ++c) offsets[c * groups + i] = bias[c];
        }
    }

  private:
    void attend(int64_t start, int64_t candidate, const float *match) {
        const int64_t d = keys.width;
        Vector logit[COLUMNS];
        for (Vector &each : logit) each = all(TO_EXPONENT * *unit.second_bias);
        for (int64_t group = 0; group < groups; group += UNITS) {
            const float *s = second.data() + group;
            Vector sum[UNITS][COLUMNS];
            product(weights.data() + (candidate * groups + group) * d, offsets.data() + candidate * groups + group,
                    keys.tiles + start * d, d, sum);
#pragma GCC unroll 3
            for (int v = 0; v < COLUMNS; ++v) {
#pragma GCC unroll 2
                for (int i = 0; i < UNITS; i += 4) {
                    // One division for four sigmoids s / (1 + e): they are added over a common denominator.
                    const Vector a = 1.0f + exp2(sum[i][v]), b = 1.0f + exp2(sum[i + 1][v]);
                    const Vector c = 1.0f + exp2(sum[i + 2][v]), e = 1.0f + exp2(sum[i + 3][v]);
                    const Vector ab = a * b, ce = c * e;
                    const Vector over = (s[i] * b + s[i + 1] * a) * ce + (s[i + 2] * e + s[i + 3] * c) * ab;
                    logit[v] += over * inverse(ab * ce);
                }
            }
        }
        float *out = attended.data() + candidate * keys.span + start;
#pragma GCC unroll 3
        for (int v = 0; v < COLUMNS; ++v) {
            if (match) logit[v] += TO_EXPONENT * bonus(match, start + v * LANES);
            store(out + v * LANES, inverse(1.0f + exp2(logit[v])));
        }
    }

    Vector bonus(const float *match, int64_t at) const {
        if (at + LANES <= keys.length) return load(match + at);
        float tail[LANES] = {};
        if (at < keys.length) std::memcpy(tail, match + at, (keys.length - at) * sizeof(float));
        return load(tail);
    }

    // Sums of keys by weight for up to four candidates at once, so that a key is loaded once for all of them.
    void read(int64_t candidate, int64_t count, float *readout) const {
        const float *weight[4];
        for (int64_t c = 0; c < 4; ++c)
            weight[c] = attended.data() + (candidate + std::min(c, count - 1)) * keys.span;
        for (int64_t column = 0; column < keys.columns; column += 2 * LANES) {
            const float *key = keys.rows + column;
            Vector sum[4][2] = {};
            for (int64_t l = 0; l < keys.length; ++l, key += keys.columns) {
                const Vector left = load(key), right = load(key + LANES);
#pragma GCC unroll 4
                for (int c = 0; c < 4; ++c) {
                    sum[c][0] += weight[c][l] * left;
                    sum[c][1] += weight[c][l] * right;
                }
            }
            const int64_t end = std::min<int64_t>(2 * LANES, keys.width - column);
            for (int64_t c = 0; c < count; ++c)
                for (int64_t j = 0; j < end; ++j)
                    readout[(column + j) * BLOCK + candidate + c] = sum[c][j / LANES][j % LANES];
        }
    }
};
