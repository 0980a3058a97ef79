// The MLP from a candidate's features to its logit, candidates side by side: no result depends on its neighbours.

#include "cell.h"

// A dense layer; behind it a LayerNorm and a PReLU, or the product with what went in, or nothing.
struct Layer {
    const float *weight, *bias;   // (rows, columns), (rows)
    const float *scale, *shift;   // of the LayerNorm, or null
    const float *slope;           // of the PReLU, one number
    float epsilon;
    int64_t rows;
    int64_t crossed;              // whether x becomes x * (W x + b) + x; it has as many rows as columns then
};

namespace {

void leak(float slope, int64_t rows, float *x) {
    for (int64_t at = 0; at < rows * BLOCK; at += BLOCK) {
        const Vector value = load(x + at);
        store(x + at, value > 0.0f ? value : slope * value);
    }
}

void cross(const float *x, int64_t rows, float *y) {
    for (int64_t at = 0; at < rows * BLOCK; at += BLOCK) {
        const Vector value = load(x + at);
        store(y + at, value * load(y + at) + value);
    }
}

}  // namespace

// features (candidates, width); logits (candidates), of the one row of the last layer.
extern "C" void dense(const Layer *layers, int64_t count, const float *features, int64_t candidates, int64_t width,
                      float *logits) {
    int64_t widest = width;
    for (int64_t i = 0; i < count; ++i) widest = std::max(widest, layers[i].rows);
    std::vector<float> x(widest * BLOCK), y(widest * BLOCK);
    for (int64_t from = 0; from < candidates; from += BLOCK) {
        const int64_t lanes = std::min<int64_t>(BLOCK, candidates - from);
        side_by_side(features + from * width, lanes, width, x.data());
        int64_t columns = width;
        for (int64_t i = 0; i < count; ++i) {
            const Layer &layer = layers[i];
            linear(layer.weight, layer.bias, layer.rows, columns, x.data(), y.data());
            if (layer.scale) {
                normalise(layer.scale, layer.shift, layer.epsilon, layer.rows, y.data());
                leak(*layer.slope, layer.rows, y.data());
            }
            if (layer.crossed) cross(x.data(), layer.rows, y.data());
            columns = layer.rows;
            x.swap(y);
        }
        std::copy(x.begin(), x.begin() + lanes, logits + from);
    }
}
