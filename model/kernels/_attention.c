/* The part of SAM's attention that is bound by the sigmoid, in one pass over memory that stays in the cache.

   weights[c, l] = sigmoid(match[c, l] + bias + sum_h second[h] * sigmoid(hidden[h, c, l]))

   Plain C that compilers vectorise; on x86 the same code is compiled a second time for AVX2 with FMA, and the
   processor decides. Errors are below 3e-7. What is not finite, or a hidden value beyond 5e6, may give NaN. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define INLINE static __forceinline
#define EXPORT __declspec(dllexport)
#define RESTRICT __restrict
#else
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define RESTRICT restrict
#endif

#define TILE 512
#define MOST 62 /* Largest power of two, so that the product of two denominators is finite. */

INLINE float one_plus_exp_of_minus(float x) {
    /* 1 + 2^t, t = -x / ln 2 = n + f with integer n and |f| <= 1/2; 2^f by a polynomial with relative error 2e-7.
       Adding 1.5 * 2^23 leaves n in the lowest bits; n is bounded as an integer, since compilers do not turn
       comparisons of floats that may be NaN into a minimum and a maximum. */
    const float round = 12582912.0f;
    const int32_t round_bits = 0x4b400000;
    const float t = x * -1.44269504f;
    const float shifted = t + round;
    const float f = t - (shifted - round);
    float power = 0.00132762198f;
    power = power * f + 0.0096755391f;
    power = power * f + 0.0555071421f;
    power = power * f + 0.240221202f;
    power = power * f + 0.693146944f;
    power = power * f + 1.00000012f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = bits < round_bits - MOST ? round_bits - MOST : bits;
    bits = bits > round_bits + MOST ? round_bits + MOST : bits;
    const uint32_t scale_bits = ((uint32_t)bits << 23) + 0x3f800000u;
    float scale;
    memcpy(&scale, &scale_bits, sizeof scale);
    return 1.0f + power * scale;
}

INLINE void weigh(const float *RESTRICT hidden, const float *RESTRICT second, float bias, const float *RESTRICT match,
                  ptrdiff_t match_stride, float *RESTRICT weights, ptrdiff_t weights_stride, ptrdiff_t units,
                  ptrdiff_t candidates, ptrdiff_t length) {
    float sums[TILE];
    for (ptrdiff_t c = 0; c < candidates; c++) {
        for (ptrdiff_t start = 0; start < length; start += TILE) {
            const ptrdiff_t count = length - start < TILE ? length - start : TILE;
            for (ptrdiff_t l = 0; l < count; l++) sums[l] = bias;
            if (match)
                for (ptrdiff_t l = 0; l < count; l++) sums[l] += match[c * match_stride + start + l];
            const float *RESTRICT row = hidden + c * length + start;
            ptrdiff_t h = 0;
            for (; h + 1 < units; h += 2) { /* Two units share a division, which costs as much as all the rest. */
                const float *RESTRICT one = row + h * candidates * length;
                const float *RESTRICT two = one + candidates * length;
                const float first_weight = second[h], second_weight = second[h + 1];
                for (ptrdiff_t l = 0; l < count; l++) {
                    const float a = one_plus_exp_of_minus(one[l]), b = one_plus_exp_of_minus(two[l]);
                    sums[l] += (first_weight * b + second_weight * a) / (a * b);
                }
            }
            if (h < units)
                for (ptrdiff_t l = 0; l < count; l++)
                    sums[l] += second[h] / one_plus_exp_of_minus(row[h * candidates * length + l]);
            float *RESTRICT out = weights + c * weights_stride + start;
            for (ptrdiff_t l = 0; l < count; l++) out[l] = 1.0f / one_plus_exp_of_minus(sums[l]);
        }
    }
}

#define ARGUMENTS                                                                                                  \
    const float *hidden, const float *second, float bias, const float *match, ptrdiff_t match_stride,              \
        float *weights, ptrdiff_t weights_stride, ptrdiff_t units, ptrdiff_t candidates, ptrdiff_t length
#define PASSED hidden, second, bias, match, match_stride, weights, weights_stride, units, candidates, length

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
__attribute__((target("avx2,fma"))) static void weigh_avx2(ARGUMENTS) { weigh(PASSED); }
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#endif

/* match may be null; strides are those of rows, in floats; hidden is contiguous. */
EXPORT void attention_weights(ARGUMENTS) {
#ifdef HAS_AVX2
    if (HAS_AVX2) {
        weigh_avx2(PASSED);
        return;
    }
#endif
    weigh(PASSED);
}
