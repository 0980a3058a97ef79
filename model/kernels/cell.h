// Dense layers and the GRU cell for a block of candidates that lie side by side, a lane each.
#pragma once

#include "attention.h"

// (count, width), a candidate a row, into (width, BLOCK), a lane each; unused lanes get zeros.
inline void side_by_side(const float *rows, int64_t count, int64_t width, float *out) {
    std::fill(out, out + width * BLOCK, 0.0f);
    for (int64_t c = 0; c < count; ++c)
        for (int64_t j = 0; j < width; ++j) out[j * BLOCK + c] = rows[c * width + j];
}

// Rows of `weight` (rows, columns) times `x` (columns, BLOCK), plus `bias`, into `out` (rows, BLOCK).
inline void linear(const float *weight, const float *bias, int64_t rows, int64_t columns, const float *x, float *out) {
    constexpr int ROWS = 8;
    for (int64_t row = 0; row < rows; row += ROWS) {
        const int64_t count = std::min<int64_t>(ROWS, rows - row);
        const float *w[ROWS];
        Vector sum[ROWS];
        for (int64_t i = 0; i < ROWS; ++i) {
            const int64_t at = row + std::min(i, count - 1);
            w[i] = weight + at * columns;
            sum[i] = all(bias[at]);
        }
        for (int64_t j = 0; j < columns; ++j) {
            const Vector value = load(x + j * BLOCK);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) sum[i] += w[i][j] * value;
        }
        for (int64_t i = 0; i < count; ++i) store(out + (row + i) * BLOCK, sum[i]);
    }
}

// As torch.nn.GRUCell has them: gates reset, update, new, one below the other.
struct Gates {
    const float *input, *state, *input_bias, *state_bias;
};

class Cell {
  public:
    Cell(const Gates *gates, int64_t inputs, int64_t width)
        : gates(gates), inputs(inputs), width(width), from_input(3 * width * BLOCK), from_state(3 * width * BLOCK) {}

    // Replaces `state` (width, BLOCK) by the next one, given `x` (inputs, BLOCK).
    void operator()(const float *x, float *state) {
        linear(gates->input, gates->input_bias, 3 * width, inputs, x, from_input.data());
        linear(gates->state, gates->state_bias, 3 * width, width, state, from_state.data());
        const int64_t gate = width * BLOCK;
        for (int64_t at = 0; at < gate; at += BLOCK) {
            const float *i = from_input.data() + at, *s = from_state.data() + at;
            const Vector reset = sigmoid(load(i) + load(s)), update = sigmoid(load(i + gate) + load(s + gate));
            const Vector fresh = tanh(load(i + 2 * gate) + reset * load(s + 2 * gate));
            store(state + at, fresh + update * (load(state + at) - fresh));
        }
    }

  private:
    const Gates *gates;
    const int64_t inputs, width;
    std::vector<float> from_input, from_state;
};
