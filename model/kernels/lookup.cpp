// The rows of keys in a hash table with open addressing and linear probing, at most half full.

#include <cstdint>

// keys (count); slots and rows (mask + 1, a power of two): key and row of each place, key 0 where it is free. A search
// begins at the upper bits of key * factor. found (count): the row, −1 for a key that has none and for key 0.
extern "C" void lookup(const uint64_t *keys, int64_t count, const uint64_t *slots, const int32_t *rows, uint64_t mask,
                       uint64_t factor, int64_t shift, int64_t *found) {
    for (int64_t i = 0; i < count; ++i) {
        const uint64_t key = keys[i];
        uint64_t at = key * factor >> shift;
        while (slots[at] != key && slots[at] != 0) at = (at + 1) & mask;
        found[i] = key != 0 && slots[at] == key ? rows[at] : -1;
    }
}
