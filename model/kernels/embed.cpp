// Behaviours as vectors: what was looked up for them, moved by their action and by how long ago they were.

#include <cstdint>

// vectors and keys (count, width). actions (count): key 0 has row 0 of its table (rows, width), the others share the
// rest; gaps (count): rows of theirs.
extern "C" void move_keys(const float *vectors, const int64_t *actions, const int64_t *gaps, const float *of_action,
                          int64_t rows, const float *of_gap, int64_t count, int64_t width, float *keys) {
    for (int64_t i = 0; i < count; ++i, vectors += width, keys += width) {
        const int64_t row = actions[i] == 0 ? 0 : 1 + actions[i] % (rows - 1);
        const float *action = of_action + row * width, *gap = of_gap + gaps[i] * width;
        for (int64_t j = 0; j < width; ++j) keys[j] = vectors[j] + action[j] + gap[j];
    }
}
