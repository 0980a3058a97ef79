// Vectors of floats, as wide as the build's instructions, and the few functions that they lack.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

inline Vector load(const float *at) { return *reinterpret_cast<const Unaligned *>(at); }

inline void store(float *at, Vector value) { *reinterpret_cast<Unaligned *>(at) = value; }

inline Vector all(float value) { return Vector{} + value; }

inline int64_t padded(int64_t size, int64_t to = LANES) { return (size + to - 1) / to * to; }

inline Vector inverse(Vector x) {
#if defined(__AVX512F__)
    const Vector rough = _mm512_rcp14_ps(x);  // 14 bits, and a step of Newton's gives the rest: a division takes longer
    return rough * (2.0f - x * rough);
#else
    return 1.0f / x;
#endif
}

// y, kept within `most` of zero; what is not a number stays so.
inline Vector within(Vector y, Vector most) {
#if defined(__AVX512F__)
    return _mm512_max_ps(-most, _mm512_min_ps(most, y));
#elif defined(__AVX2__)
    return _mm256_max_ps(-most, _mm256_min_ps(most, y));
#else
    y = y < -most ? -most : y;
    return y > most ? most : y;
#endif
}

// 2^y, y kept within 30 of zero: the nearest integer goes into the exponent, and a polynomial does the rest, with the
// least largest relative error on [-1/2, 1/2], 2.6e-6.
inline Vector exp2(Vector y) {
    const Vector shift = all(12582912.0f);  // 1.5 * 2^23: a sum with it is rounded to an integer
    y = within(y, all(30.0f));
    const Vector rounded = y + shift;
    const Vector rest = y - (rounded - shift);
    Vector power = 9.5705315e-3f * rest + 5.5918664e-2f;
    power = power * rest + 2.4024735e-1f;
    power = power * rest + 6.9312167e-1f;
    power = power * rest + 9.9999928e-1f;
    return (Vector)((Bits)power + ((Bits)rounded << 23));
}

constexpr float TO_EXPONENT = -1.44269504f;  // e^-x = 2^(TO_EXPONENT x)

inline Vector sigmoid(Vector x) { return inverse(1.0f + exp2(TO_EXPONENT * x)); }

inline Vector tanh(Vector x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }
