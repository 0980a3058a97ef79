// The rows of an embedding table: found by key, gathered for a step, and moved by it. Where they lie is known some steps
// ahead, so that memory is asked for it before it is read: in a large table nearly every row is a miss of the caches.

#include <cmath>
#include <cstdint>

namespace {

constexpr int64_t AHEAD = 32;

struct Slot {
    uint64_t key;
    int32_t row, unused;
};

template <class T> inline void fetch(const T *at) { __builtin_prefetch(at, 0, 1); }

// Fetches `width` floats: of those, each cache line that may be touched.
inline void fetch_row(const float *row, int64_t width) {
    for (int64_t i = 0; i < width; i += 16) fetch(row + i);
    fetch(row + width - 1);
}

template <class T> void set_all(const int64_t *rows, int64_t count, T value, T *values) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(values + rows[i + AHEAD], 1, 1);
        values[rows[i]] = value;
    }
}

}  // namespace

// keys (count); slots (mask + 1, a power of two): a free one has key 0; at most half of them are taken. A search begins at
// the upper bits of key * factor. found (count): the row, −1 for a key that has none and for key 0.
extern "C" void find_rows(const uint64_t *keys, int64_t count, const Slot *slots, uint64_t mask, uint64_t factor,
                          int64_t shift, int64_t *found) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) fetch(slots + (keys[i + AHEAD] * factor >> shift));
        const uint64_t key = keys[i];
        uint64_t at = key * factor >> shift;
        while (slots[at].key != key && slots[at].key != 0) at = (at + 1) & mask;
        found[i] = key != 0 && slots[at].key == key ? slots[at].row : -1;
    }
}

// rows (count), −1 for none; distinct (count) is filled with those that occur, each once, in order of first occurrence, and
// their number returned. places (count): 1 + where a row is among them, 0 for −1. memo (rows of the table) may hold anything:
// what it says of a row is believed if `distinct` agrees (sparse set, Briggs and Torczon, LOPLAS 1993).
extern "C" int64_t distinct_rows(const int64_t *rows, int64_t count, uint32_t *memo, int64_t *distinct, int64_t *places) {
    int64_t known = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count && rows[i + AHEAD] >= 0) fetch(memo + rows[i + AHEAD]);
        const int64_t row = rows[i];
        if (row < 0) {
            places[i] = 0;
            continue;
        }
        int64_t at = memo[row];
        if (at >= known || distinct[at] != row) {
            at = known++;
            distinct[at] = row;
            memo[row] = static_cast<uint32_t>(at);
        }
        places[i] = at + 1;
    }
    return known;
}

// values (rows of the table, width); rows (count); out (count, width).
extern "C" void gather_rows(const float *values, int64_t width, const int64_t *rows, int64_t count, float *out) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) fetch_row(values + rows[i + AHEAD] * width, width);
        const float *row = values + rows[i] * width;
        for (int64_t j = 0; j < width; ++j) out[i * width + j] = row[j];
    }
}

// values (rows of the table): of 1 or 8 bytes each, as `size` says; of rows (count) they become `value`.
extern "C" void set_rows(const int64_t *rows, int64_t count, int64_t size, int64_t value, void *values) {
    if (size == 1)
        set_all(rows, count, static_cast<int8_t>(value), static_cast<int8_t *>(values));
    else
        set_all(rows, count, value, static_cast<int64_t *>(values));
}

// Row-wise Adagrad. rows (count): of the table; taken (count): of `vectors` and `gradients` (…, width), where each is.
// values (rows of the table, width) and sums (rows of the table) are moved.
extern "C" void adagrad(const int64_t *rows, const int64_t *taken, int64_t count, const float *vectors,
                        const float *gradients, int64_t width, float rate, float epsilon, float *values, float *sums) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) {
            const int64_t next = rows[i + AHEAD];
            fetch_row(values + next * width, width);
            fetch(sums + next);
        }
        const float *vector = vectors + taken[i] * width, *gradient = gradients + taken[i] * width;
        float squares = 0.0f;
        for (int64_t j = 0; j < width; ++j) squares += gradient[j] * gradient[j];
        const float sum = sums[rows[i]] += squares / static_cast<float>(width);
        const float step = rate / (std::sqrt(sum) + epsilon);
        float *value = values + rows[i] * width;
        for (int64_t j = 0; j < width; ++j) value[j] = vector[j] - step * gradient[j];
    }
}
