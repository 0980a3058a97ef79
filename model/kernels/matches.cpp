// Which behaviours of one user match which candidates, found through a hash table of the candidates' keys.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Candidates by key; several may have the same one. Key 0 is nobody's.
class Table {
  public:
    Table(const int64_t *keys, int64_t count) : next(count, -1) {
        while ((int64_t(1) << bits) < 2 * count) ++bits;
        slots.assign(int64_t(1) << bits, Slot{0, -1});
        for (int64_t c = count - 1; c >= 0; --c) {
            if (keys[c] == 0) continue;
            Slot &slot = find(keys[c]);
            next[c] = slot.first;
            slot = Slot{keys[c], c};
        }
    }

    // Calls `each` with every candidate that has this key, which is not 0.
    template <typename Each> void of(int64_t key, Each each) {
        for (int64_t c = find(key).first; c >= 0; c = next[c]) each(c);
    }

  private:
    struct Slot {
        int64_t key, first;
    };

    int bits = 4;
    std::vector<Slot> slots;
    std::vector<int64_t> next;

    Slot &find(int64_t key) {
        uint64_t at = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15u >> (64 - bits);
        while (slots[at].key != 0 && slots[at].key != key) at = (at + 1) & (slots.size() - 1);
        return slots[at];
    }
};

}  // namespace

// history and targets: keys of `kinds` kinds, (kinds, length) and (kinds, candidates). mask: (length). ages: (length),
// 0 for the newest behaviour. Adds each kind's weight to `bonus` (candidates, length), which is zero before, or is null.
// Counts matches younger than each of the ascending `windows`, and all, in `counts` (candidates, kinds, limits + 1);
// puts one more than the place of the newest match into `newest` (candidates, kinds); both are zero before.
extern "C" void matches(const int64_t *history, const int64_t *targets, const uint8_t *mask, const int64_t *ages,
                        int64_t length, int64_t candidates, int64_t kinds, const int64_t *windows, int64_t limits,
                        const float *weights, float *bonus, float *counts, float *newest) {
    const int64_t columns = limits + 1;
    for (int64_t kind = 0; kind < kinds; ++kind) {
        Table table(targets + kind * candidates, candidates);
        for (int64_t l = 0; l < length; ++l) {
            const int64_t key = history[kind * length + l];
            if (!mask[l] || key == 0) continue;
            const int64_t first = std::upper_bound(windows, windows + limits, ages[l]) - windows;
            table.of(key, [&](int64_t c) {
                if (bonus) bonus[c * length + l] += weights[kind];
                float *count = counts + (c * kinds + kind) * columns;
                for (int64_t window = first; window < columns; ++window) count[window] += 1.0f;
                newest[c * kinds + kind] = static_cast<float>(l + 1);
            });
        }
    }
}

// The same of several users, without weights: also puts where behaviours match into `places` (capacity), of one of
// (users, candidates, length), and their kinds into `which`. Returns how many there are; those beyond the capacity are
// not put down.
extern "C" int64_t list_matches(const int64_t *history, const int64_t *targets, const uint8_t *mask, int64_t users,
                                int64_t length, int64_t candidates, int64_t kinds, const int64_t *windows,
                                int64_t limits, float *counts, float *newest, int64_t *places, int64_t *which,
                                int64_t capacity) {
    const int64_t columns = limits + 1;
    int64_t found = 0;
    for (int64_t b = 0; b < users; ++b, mask += length) {
        const int64_t behaviours = std::count(mask, mask + length, 1);
        for (int64_t kind = 0; kind < kinds; ++kind) {
            Table table(targets + (b * kinds + kind) * candidates, candidates);
            for (int64_t l = 0; l < length; ++l) {
                const int64_t key = history[(b * kinds + kind) * length + l];
                if (!mask[l] || key == 0) continue;
                const int64_t age = behaviours - 1 - l;
                const int64_t first = std::upper_bound(windows, windows + limits, age) - windows;
                table.of(key, [&](int64_t c) {
                    const int64_t at = (b * candidates + c) * kinds + kind;
                    for (int64_t window = first; window < columns; ++window) counts[at * columns + window] += 1.0f;
                    newest[at] = static_cast<float>(l + 1);
                    if (found < capacity) {
                        places[found] = (b * candidates + c) * length + l;
                        which[found] = kind;
                    }
                    ++found;
                });
            }
        }
    }
    return found;
}
