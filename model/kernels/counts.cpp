// Decayed counts: each event fades with time, at several half-lives at once.

#include <cmath>
#include <cstdint>

// rows, times (events): an event of row −1 is left out. weights (events), or null for 1 each. sums (keys, columns,
// lives) as of `newest` (keys), which is brought forward by younger events; `touched` (keys) is set. rates (lives): by
// which exponent of 2 a sum fades in a unit of time.
extern "C" void count(const int64_t *rows, const int64_t *times, const double *weights, int64_t events, int64_t column,
                      const double *rates, int64_t columns, int64_t lives, double *sums, int64_t *newest,
                      uint8_t *touched) {
    for (int64_t event = 0; event < events; ++event) {
        const int64_t row = rows[event];
        if (row < 0) continue;
        const double age = static_cast<double>(newest[row] - times[event]), weight = weights ? weights[event] : 1.0;
        double *sum = sums + row * columns * lives;
        if (age < 0.0) {
            for (int64_t i = 0; i < columns * lives; ++i) sum[i] *= std::exp2(age * rates[i % lives]);
            newest[row] = times[event];
        }
        sum += column * lives;
        for (int64_t life = 0; life < lives; ++life) {
            sum[life] += age > 0.0 ? weight * std::exp2(-age * rates[life]) : weight;
        }
        touched[row] = 1;
    }
}
