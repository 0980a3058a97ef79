// The passes of SAM and DIN for all candidates of one user, from embedded keys to readouts and memories, in one call.

#include <thread>

#include "cell.h"

struct Model {
    const Unit *units;                // (passes)
    const Gates *cell;                // folds a readout into the memory; null: there is no memory, and one pass
    const float *const *projections;  // (steps, 2) weight and bias of the memory enhancement, or null
    const Gates *enhancement;
    int64_t passes, hidden, width, queries, steps, feedback;
};

namespace {

void by_row(const float *lanes, int64_t count, int64_t width, float *rows) {
    for (int64_t c = 0; c < count; ++c)
        for (int64_t j = 0; j < width; ++j) rows[c * width + j] = lanes[j * BLOCK + c];
}

struct Block {
    const Model &model;
    const Keys &keys;
    std::vector<Attention> attentions;
    Cell cell, enhance;
    std::vector<float> target, memory, readout, both;

    Block(const Model &model, const Keys &keys)
        : model(model), keys(keys), cell(model.cell, model.width, model.width),
          enhance(model.enhancement, 2 * model.width, model.width), target(model.width * BLOCK), memory(target),
          readout(target), both(2 * model.width * BLOCK) {
        attentions.reserve(model.passes);
        for (int64_t p = 0; p < model.passes; ++p)
            attentions.emplace_back(model.units[p], keys, model.hidden, model.queries);
    }

    // Candidates `from` to `from + count` of `all`. Readouts and memories: (passes, all, width); enhanced: (all, width).
    void run(const float *targets, const float *match, int64_t stride, int64_t from, int64_t count, int64_t all,
             float *readouts, float *memories, float *enhanced) {
        const int64_t d = model.width;
        side_by_side(targets + from * d, count, d, target.data());
        memory = target;
        const float *bonus = match ? match + from * stride : nullptr;
        for (int64_t p = 0; p < model.passes; ++p) {
            const float *query[] = {target.data(), model.feedback ? memory.data() : target.data()};
            attentions[p](query, bonus, stride, count, readout.data());
            by_row(readout.data(), count, d, readouts + (p * all + from) * d);
            if (!memories) continue;
            cell(readout.data(), memory.data());
            by_row(memory.data(), count, d, memories + (p * all + from) * d);
        }
        if (!enhanced) return;
        std::copy(target.begin(), target.end(), both.begin() + d * BLOCK);
        for (int64_t step = 0; step < model.steps; ++step) {
            const float *const *projection = model.projections + 2 * step;
            linear(projection[0], projection[1], d, d, memory.data(), both.data());
            enhance(both.data(), memory.data());
        }
        by_row(memory.data(), count, d, enhanced + from * d);
    }
};

}  // namespace

// keys (length, width); mask (length); targets (candidates, width); match (candidates, stride) or null; readouts and
// memories (passes, candidates, width); enhanced (candidates, width). Memories and enhanced may be null.
extern "C" void passes(const Model *model, const float *keys, const uint8_t *mask, int64_t length, const float *targets,
                       const float *match, int64_t stride, int64_t candidates, float *readouts, float *memories,
                       float *enhanced, int64_t threads) {
    while (length > 0 && !mask[length - 1]) --length;
    const OwnKeys ready(keys, mask, length, model->width);
    // As many blocks for every thread, all of about one size.
    const int64_t rounds = (candidates + BLOCK * threads - 1) / (BLOCK * threads), blocks = rounds * threads;
    const auto work = [&](int64_t thread) {
        Block block(*model, ready);
        for (int64_t b = thread; b < blocks; b += threads) {
            const int64_t from = candidates * b / blocks, to = candidates * (b + 1) / blocks;
            if (to > from) block.run(targets, match, stride, from, to - from, candidates, readouts, memories, enhanced);
        }
    };
    std::vector<std::thread> others;
    for (int64_t thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
    work(0);
    for (std::thread &other : others) other.join();
}
