// What learning needs of an attention on a CPU, user by user: its readouts, and its gradient.

#include <thread>

#include "attention_gradient.h"
#include "cell.h"

// One attention of all users; (users, ...) each. Candidates: the first `counts` of `candidates`; behaviours: the first
// `ends` of `length`.
struct Task {
    const float *keys;              // (length, width) zeros where masked
    const float *tiles;             // (span, width) as `lay_out` has them
    const float *rows;              // (length, columns)
    const int64_t *ends, *counts;   // one number each
    const float *queries[2];        // (candidates, width)
    const float *match;             // (candidates, length) or null
    const Unit *unit;
    int64_t users, length, width, span, columns, candidates, hidden, number;  // number: of queries
};

namespace {

struct User {
    const Task &task;
    const Keys keys;
    const int64_t count, from;  // from: the first candidate

    User(const Task &task, int64_t b)
        : task(task), keys{task.ends[b], task.width, task.columns, padded(task.ends[b], TILE),
                           task.tiles + b * task.span * task.width, task.rows + b * task.length * task.columns},
          count(std::min(task.counts[b], task.candidates)), from(b * task.candidates) {}

    // Candidates in blocks: `each` gets the place of the first among all users' and how many they are.
    template <typename Each> void blocks(Each each) const {
        for (int64_t c = 0; c < count; c += BLOCK) each(from + c, std::min<int64_t>(BLOCK, count - c));
    }
};

// Queries of a block of candidates, a lane each.
struct Lanes {
    std::vector<float> memory;
    const float *lanes[2], *rows[2];

    explicit Lanes(const Task &task) : memory(2 * task.width * BLOCK) {}

    void take(const Task &task, int64_t at, int64_t count) {
        for (int64_t q = 0; q < task.number; ++q) {
            rows[q] = task.queries[q] + at * task.width;
            lanes[q] = memory.data() + q * task.width * BLOCK;
            side_by_side(rows[q], count, task.width, memory.data() + q * task.width * BLOCK);
        }
    }
};

// Calls `work` with each thread's number, and the users that are its own.
template <typename Work> void share(int64_t users, int64_t threads, Work work) {
    std::vector<std::thread> others;
    for (int64_t thread = 1; thread < threads; ++thread)
        others.emplace_back(work, thread, users * thread / threads, users * (thread + 1) / threads);
    work(0, 0, users / threads);
    for (std::thread &other : others) other.join();
}

}  // namespace

// Puts (length, width) keys of all users into tiles (span, width), and into rows (length, columns) unless they are null.
extern "C" void lay_out_keys(const Task *task, float *tiles, float *rows) {
    for (int64_t b = 0; b < task->users; ++b) {
        const Keys to{task->ends[b], task->width, task->columns, padded(task->ends[b], TILE), nullptr, nullptr};
        lay_out(to, task->keys + b * task->length * task->width, nullptr,
                tiles + b * task->span * task->width, rows ? rows + b * task->length * task->columns : nullptr);
    }
}

// Readouts (users, candidates, width) and the weights that behaviours were read with (users, candidates, length).
extern "C" void attend(const Task *task, float *readouts, float *weights, int64_t threads) {
    share(task->users, threads, [&](int64_t, int64_t begin, int64_t end) {
        Lanes lanes(*task);
        std::vector<float> readout(padded(task->width, 2 * LANES) * BLOCK);
        for (int64_t b = begin; b < end; ++b) {
            const User user(*task, b);
            Attention attention(*task->unit, user.keys, task->hidden, task->number);
            user.blocks([&](int64_t at, int64_t count) {
                lanes.take(*task, at, count);
                attention(lanes.lanes, task->match ? task->match + at * task->length : nullptr, task->length, count,
                          readout.data());
                for (int64_t c = 0; c < count; ++c) {
                    for (int64_t j = 0; j < task->width; ++j)
                        readouts[(at + c) * task->width + j] = readout[j * BLOCK + c];
                    const float *attended = attention.attended.data() + c * user.keys.span;
                    std::copy(attended, attended + user.keys.length, weights + (at + c) * task->length);
                }
            });
        }
    });
}

// Given the gradient of the readouts, and the weights that were read with: puts down that of the keys (users, length,
// width) and of `match`, or null, and adds to those of the queries (users, candidates, width) each and, a thread each,
// to `sums`.
extern "C" void attend_backward(const Task *task, const float *gradient, const float *weights, float *keys,
                                float *const *queries, float *match, const UnitGradient *sums, int64_t threads) {
    share(task->users, threads, [&](int64_t thread, int64_t begin, int64_t end) {
        Lanes lanes(*task);
        for (int64_t b = begin; b < end; ++b) {
            const User user(*task, b);
            Attention attention(*task->unit, user.keys, task->hidden, task->number);
            AttentionGradient backward(attention, sums[thread]);
            float *d_keys = keys + b * task->length * task->width;
            std::fill_n(d_keys, task->length * task->width, 0.0f);
            user.blocks([&](int64_t at, int64_t count) {
                lanes.take(*task, at, count);
                float *d_queries[2];
                for (int64_t q = 0; q < task->number; ++q) d_queries[q] = queries[q] + at * task->width;
                backward(lanes.lanes, lanes.rows, gradient + at * task->width, weights + at * task->length,
                         task->length, count, d_keys, d_queries,
                         match ? match + at * task->length : nullptr);
            });
        }
    });
}
