// Gradients of the weights of one member, for some of their rows: the sum over steps and lanes of deltas times states.

#pragma once
#include "job.hpp"

namespace {

constexpr int64_t SPAN_BYTES = 4096;  // of steps and lanes at a time: the rows of a tile are about the first-level cache,
constexpr int64_t STRIP = 48;         // and those of a strip of deltas fit the second (measured)
constexpr int ROWS = 4, COLUMNS = TILE_VECTORS == 2 ? 6 : 3;  // sums, a column each and a row fill the registers

template <class T> struct WeightsTile {  // pointers to the tile's first row
  const T *deltas, *states;
  int64_t steps, padded, deltas_step, states_step;
};

// out[column][row]
template <class T, int C> __attribute__((noinline)) void weights_tile(const WeightsTile<T>& t, T* out) {
  Vec<T> acc[C][ROWS] = {};
  for (int64_t n = 0; n < t.steps; ++n) {
    const T *deltas = t.deltas + n * t.deltas_step, *states = t.states + n * t.states_step;
    for (int64_t lane = 0; lane < t.padded; lane += LANES<T>) {
      Vec<T> right[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) right[c] = load<T>(states + c * t.padded + lane);
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        const Vec<T> left = load<T>(deltas + r * t.padded + lane);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) acc[c][r] += left * right[c];
      }
    }
  }
  constexpr int GROUP = LANES<T> < 8 ? LANES<T> : 8;
#pragma GCC unroll 16
  for (int from = 0; from < C * ROWS; from += GROUP) {
    Vec<T> group[GROUP] = {};
#pragma GCC unroll 8
    for (int i = 0; i < GROUP; ++i)
      if (from + i < C * ROWS) group[i] = acc[(from + i) / ROWS][(from + i) % ROWS];
    const Vec<T> sums = lane_sums<T, GROUP>(group);
    std::memcpy(out + from, &sums, GROUP * sizeof(T));
  }
}

template <class T> void weights(const Net<T>& net, int64_t begin, int64_t end) {  // rows of deltas
  const Job& job = net.job;
  const int64_t H = net.units, I = job.inputs, K = net.rows, M = 4 * H, N = job.steps;
  const int64_t span = std::max<int64_t>(1, SPAN_BYTES / static_cast<int64_t>(sizeof(T)) / job.padded);
  T* ih = static_cast<T*>(job.grad_weights) + net.member * M * I;
  T* hh = static_cast<T*>(job.grad_weights) + job.members * M * I + net.member * M * H;
  T* bias = static_cast<T*>(job.grad_weights) + job.members * M * (H + I) + net.member * M;
  constexpr void (*tiles[])(const WeightsTile<T>&, T*) = {weights_tile<T, 1>, weights_tile<T, 2>, weights_tile<T, 3>,
                                                          weights_tile<T, 4>, weights_tile<T, 5>, weights_tile<T, 6>};
  T sums[ROWS * COLUMNS + LANES<T>];
  for (int64_t n = 0; n < N; n += span)
    for (int64_t strip = begin; strip < end; strip += STRIP)
      for (int64_t k = 0; k < K; k += COLUMNS) {
        const int64_t count = std::min<int64_t>(COLUMNS, K - k);
        for (int64_t r = strip; r < std::min(end, strip + STRIP); r += ROWS) {
          tiles[count - 1]({net.deltas(n, r, 0), net.states(n, k, 0), std::min(span, N - n), job.padded, job.deltas_step, job.states_step}, sums);
          for (int64_t c = 0; c < count; ++c)
            for (int64_t i = 0; i < ROWS; ++i) {
              T* to = k + c < H ? hh + (r + i) * H + k + c : k + c < H + I ? ih + (r + i) * I + k + c - H : bias + r + i;
              *to = n ? *to + sums[c * ROWS + i] : sums[c * ROWS + i];
            }
        }
      }
}

}  // namespace
