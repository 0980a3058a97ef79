// The keys of behaviours, put together from rows of several tables, and the gradients of those.

#include <algorithm>

#include "simd.h"

// Rows of a table, `width` wide, by position: one for each behaviour.
struct Rows {
    float *vectors;
    const int64_t *positions;
    int64_t width;
};

namespace {

// y += x
inline void add(const float *x, int64_t count, float *y) {
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES) store(y + j, load(y + j) + load(x + j));
    for (; j < count; ++j) y[j] += x[j];
}

// y = x; a call of memcpy for each of so few numbers would cost as much as all else.
inline void copy(const float *x, int64_t count, float *y) {
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES) store(y + j, load(x + j));
    for (; j < count; ++j) y[j] = x[j];
}

}  // namespace

// Of (users, length) behaviours: writes the rows of `tables` side by side, plus those of `sums`, each as wide as all,
// into keys (users, length, width), zeros where masked; and their sums into totals (users, width).
extern "C" void embed_keys(const Rows *side_by_side, int64_t tables, const Rows *added, int64_t more, const uint8_t *mask,
                           int64_t users, int64_t length, int64_t width, float *keys, float *totals) {
    for (int64_t b = 0; b < users; ++b) {
        float *total = totals + b * width;
        std::fill_n(total, width, 0.0f);
        for (int64_t at = b * length; at < (b + 1) * length; ++at) {
            float *key = keys + at * width;
            if (!mask[at]) {
                std::fill_n(key, width, 0.0f);
                continue;
            }
            for (int64_t t = 0, from = 0; t < tables; from += side_by_side[t++].width) {
                const Rows &rows = side_by_side[t];
                copy(rows.vectors + rows.positions[at] * rows.width, rows.width, key + from);
            }
            for (int64_t t = 0; t < more; ++t) add(added[t].vectors + added[t].positions[at] * width, width, key);
            add(key, width, total);
        }
    }
}

// Adds to the gradients of all rows, given those of keys and of totals.
extern "C" void embed_keys_backward(const Rows *side_by_side, int64_t tables, const Rows *added, int64_t more,
                                    const uint8_t *mask, int64_t users, int64_t length, int64_t width, const float *keys,
                                    const float *totals, float *buffer) {
    for (int64_t b = 0; b < users; ++b) {
        for (int64_t at = b * length; at < (b + 1) * length; ++at) {
            if (!mask[at]) continue;
            copy(keys + at * width, width, buffer);
            add(totals + b * width, width, buffer);
            for (int64_t t = 0, from = 0; t < tables; from += side_by_side[t++].width) {
                const Rows &rows = side_by_side[t];
                add(buffer + from, rows.width, rows.vectors + rows.positions[at] * rows.width);
            }
            for (int64_t t = 0; t < more; ++t) add(buffer, width, added[t].vectors + added[t].positions[at] * width);
        }
    }
}
