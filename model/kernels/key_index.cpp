// Looks keys up by open addressing with linear probing; see `model/embedding/key_index.py`.

#include <cstdint>

// slots (keys): the slot of each of `count` keys among slot_keys (mask + 1, a power of two), -1 for one that has none
// and for key 0. A search begins at (key * factor) >> shift and ends at a free slot, which holds key 0.
extern "C" void find_slots(const uint64_t *keys, int64_t count, const uint64_t *slot_keys, int64_t mask, uint64_t factor,
                           int64_t shift, int64_t *slots) {
    constexpr int64_t AHEAD = 16;  // slots lie anywhere in memory: fetched early, they are waited for together
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(slot_keys + (keys[i + AHEAD] * factor >> shift));
        const uint64_t key = keys[i];
        int64_t slot = static_cast<int64_t>(key * factor >> shift);
        while (slot_keys[slot] != key && slot_keys[slot] != 0) slot = (slot + 1) & mask;
        slots[i] = key != 0 && slot_keys[slot] == key ? slot : -1;
    }
}
