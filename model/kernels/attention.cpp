// Attention weights of many candidates over one sequence: both layers and their sigmoids, in registers.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#endif

namespace {

typedef float Vector __attribute__((vector_size(32)));
typedef float Unaligned __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(32)));

constexpr int LANES = 8;
constexpr int COLUMNS = 3;             // vectors of behaviours at a time
constexpr int UNITS = 4;               // hidden units at a time: 4 x 3 sums, 3 keys and a weight fill 16 registers
constexpr int TILE = LANES * COLUMNS;  // behaviours at a time; TILE of native.py
constexpr float TO_EXPONENT = -1.44269504f;  // e^-x = 2^(TO_EXPONENT x)

struct Task {
    const float *first, *second, *keys, *match;
    float bias;
    float *out;
    int64_t candidates, hidden, width, length;
};

inline Vector load(const float *at) { return *reinterpret_cast<const Unaligned *>(at); }

// 2^y, y kept within 30 of zero: the nearest integer goes into the exponent, a polynomial does the rest.
inline Vector exp2(Vector y) {
    const Vector shift = Vector{} + 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to an integer
    const Vector most = Vector{} + 30.0f;
    y = y < -most ? -most : y;
    y = y > most ? most : y;
    const Vector rounded = y + shift;
    const Vector rest = y - (rounded - shift);
    Vector power = 1.3333558e-3f * rest + 9.6181291e-3f;
    power = power * rest + 5.5504109e-2f;
    power = power * rest + 2.4022651e-1f;
    power = power * rest + 6.9314718e-1f;
    power = power * rest + 1.0f;
    return (Vector)((Bits)power + ((Bits)rounded << 23));
}

inline Vector matches(const Task &task, int64_t candidate, int64_t at) {
    const float *row = task.match + candidate * task.length;
    if (at + LANES <= task.length) return load(row + at);
    float tail[LANES] = {};
    if (at < task.length) std::memcpy(tail, row + at, (task.length - at) * sizeof(float));
    return load(tail);
}

void attend(const Task &task, int64_t from, int64_t to) {
    const int64_t unit = task.candidates * task.width;  // from one hidden unit's weights to the next one's
    const int64_t padded = (task.length + TILE - 1) / TILE * TILE;
    for (int64_t start = 0; start < padded; start += TILE) {
        for (int64_t candidate = from; candidate < to; ++candidate) {
            Vector logit[COLUMNS];
            for (Vector &each : logit) each = Vector{} + task.bias;
            for (int64_t u = 0; u < task.hidden; u += UNITS) {
                const float *weight = task.first + u * unit + candidate * task.width;
                const float *key = task.keys + start * task.width;
                Vector sum[UNITS][COLUMNS] = {};
                for (int64_t j = 0; j < task.width; ++j, ++weight, key += TILE) {
                    const Vector k0 = load(key), k1 = load(key + LANES), k2 = load(key + 2 * LANES);
#pragma GCC unroll 4
                    for (int i = 0; i < UNITS; ++i) {
                        const float w = weight[i * unit];
                        sum[i][0] += w * k0;
                        sum[i][1] += w * k1;
                        sum[i][2] += w * k2;
                    }
                }
                const float *s = task.second + u;
#pragma GCC unroll 3
                for (int v = 0; v < COLUMNS; ++v) {
                    // One division for four sigmoids s / (1 + e): they are added over a common denominator.
                    const Vector a = 1.0f + exp2(TO_EXPONENT * sum[0][v]), b = 1.0f + exp2(TO_EXPONENT * sum[1][v]);
                    const Vector c = 1.0f + exp2(TO_EXPONENT * sum[2][v]), d = 1.0f + exp2(TO_EXPONENT * sum[3][v]);
                    const Vector ab = a * b, cd = c * d;
                    logit[v] += ((s[0] * b + s[1] * a) * cd + (s[2] * d + s[3] * c) * ab) / (ab * cd);
                }
            }
#pragma GCC unroll 3
            for (int v = 0; v < COLUMNS; ++v) {
                const int64_t at = start + v * LANES;
                if (task.match) logit[v] += matches(task, candidate, at);
                const Vector weight = 1.0f / (1.0f + exp2(TO_EXPONENT * logit[v]));
                *reinterpret_cast<Unaligned *>(task.out + candidate * padded + at) = weight;
            }
        }
    }
}

}  // namespace

// Shapes, all contiguous: first (hidden, candidates, width), hidden a multiple of UNITS; second (hidden);
// keys (tiles, width, TILE); match (candidates, length) or null; out (candidates, tiles * TILE).
extern "C" void attention_weights(const float *first, const float *second, float bias, const float *keys,
                                  const float *match, float *out, int64_t candidates, int64_t hidden,
                                  int64_t width, int64_t length, int64_t threads) {
    const Task task{first, second, keys, match, bias, out, candidates, hidden, width, length};
    const int64_t share = std::max<int64_t>(1, (candidates + threads - 1) / threads);
    std::vector<std::thread> others;
    for (int64_t from = share; from < candidates; from += share)
        others.emplace_back([=] { attend(task, from, std::min(from + share, candidates)); });
    attend(task, 0, std::min(share, candidates));
    for (std::thread &other : others) other.join();
}
