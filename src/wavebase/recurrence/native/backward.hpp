// The sequence backward, for some lanes of one member: per step the gates, then the product with the weights' transpose.

#pragma once
#include "job.hpp"

namespace {

// From the gradients of h_n and c_n to those of the pre-activations, in `deltas`, and of c_{n-1}, left in dc.
template <class T> void backward_pointwise(const Net<T>& net, int64_t n, int64_t first, int64_t lanes, const T* dh, T* dc,
                                           const T* c0) {
  const Job& job = net.job;
  const int64_t H = net.units;
  const bool tanh_input_gate = job.tanh_input_gate != 0;
  for (int64_t u = 0; u < H; ++u) {
    const T* tape = net.tape(n, u, first);
    const T* c_before = n ? net.tape(n - 1, u, first) + 4 * job.padded : c0 + u * lanes;
    T* out[4];
    for (int gate = 0; gate < 4; ++gate) out[gate] = net.deltas(n, gate * H + u, first);
    for (int64_t lane = 0; lane < lanes; lane += LANES<T>) {
      Vec<T> plane[PLANES];
      for (int p = 0; p < PLANES; ++p) plane[p] = load<T>(tape + p * job.padded + lane);
      const auto [i, f, g, o, c] = plane;
      const Vec<T> squashed = vtanh<T>(c);  // cheaper than to keep it
      const Vec<T> grad_h = load<T>(dh + u * lanes + lane);
      const Vec<T> grad_c = load<T>(dc + u * lanes + lane) + grad_h * o * (T(1) - squashed * squashed);
      const Vec<T> d[4] = {grad_c * g * (tanh_input_gate ? T(1) - i * i : i * (T(1) - i)),
                           grad_c * load<T>(c_before + lane) * (f * (T(1) - f)), grad_c * i * (T(1) - g * g),
                           grad_h * squashed * (o * (T(1) - o))};
      store<T>(dc + u * lanes + lane, grad_c * f);
      for (int gate = 0; gate < 4; ++gate) store<T>(out[gate] + lane, d[gate]);
    }
  }
}

template <class T> struct BackwardTile {  // pointers to the tile's first unit and lane
  const T *panel, *deltas;  // deltas: [gate unit][padded], `count` rows of it
  T* out;                   // [unit][lanes]
  int64_t count, lanes, padded, real;  // real: units that exist, the others of the tile are padding
  bool fresh;               // set, or add to, out
};

template <class T, int R, int V> __attribute__((noinline)) void backward_tile(const BackwardTile<T>& t) {
  Vec<T> acc[R][V] = {};
  multiply<T, R, V>(acc, t.panel, t.deltas, t.count, t.padded);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      if (r < t.real) {
        T* to = t.out + r * t.lanes + v * LANES<T>;
        store<T>(to, t.fresh ? acc[r][v] : load<T>(to) + acc[r][v]);
      }
}

template <class T, int R> void backward_row(BackwardTile<T> t) {
  constexpr int V = TILE_VECTORS * LANES<T>;
  int64_t lane = 0;
  for (; lane + V <= t.lanes; lane += V) backward_tile<T, R, TILE_VECTORS>(t), t.deltas += V, t.out += V;
  for (; lane < t.lanes; lane += LANES<T>) backward_tile<T, R, 1>(t), t.deltas += LANES<T>, t.out += LANES<T>;
}

template <class T> void backward(const Net<T>& net, int64_t begin, int64_t end) {  // lanes
  const Job& job = net.job;
  const int64_t H = net.units, width = std::min(BLOCK<T>, end - begin), rounded = (H + 3) / 4 * 4;
  T *panels, *dh, *dc, *c0;
  arena.take<T>({{&panels, 4 * H * rounded}, {&dh, H * width}, {&dc, H * width}, {&c0, H * width}});
  const auto tile_units = [&](int64_t u0) { return std::min<int64_t>(12, rounded - u0); };
  for (int64_t u0 = 0; u0 < rounded; u0 += 12) {  // [tile][gate unit][unit], units past H are zero
    const int64_t R = tile_units(u0);
    T* out = panels + u0 * 4 * H;
    for (int64_t r = 0; r < 4 * H; ++r) {
      const T* from = net.at(job.weight_hh, r, u0);
      for (int64_t u = 0; u < R; ++u) *out++ = u0 + u < H ? from[u * job.weight_hh.stride[2]] : T(0);
    }
  }
  // sums over at most 512 rows at a time keep the panel in the first-level cache
  const int64_t sums = (4 * H + 511) / 512, sum = (4 * H + sums - 1) / sums;
  const View &grad = job.grad_states, &grad_h = job.grad_hidden, &grad_c = job.grad_cell, &before = job.cell;
  for (int64_t first = begin; first < end; first += BLOCK<T>) {
    const int64_t lanes = std::min(BLOCK<T>, end - first);
    gather<T, false>(net, c0, lanes, net.at(before, 0), before.stride[1], before.stride[2], H, first, lanes);
    std::fill_n(dh, H * lanes, T(0));
    std::fill_n(dc, H * lanes, T(0));
    if (grad_h.data) gather<T, true>(net, dh, lanes, net.at(grad_h, 0), grad_h.stride[1], grad_h.stride[2], H, first, lanes);
    if (grad_c.data) gather<T, true>(net, dc, lanes, net.at(grad_c, 0), grad_c.stride[1], grad_c.stride[2], H, first, lanes);
    for (int64_t n = job.steps - 1; n >= 0; --n) {
      const int64_t read = n < job.first || (n - job.first) % job.every ? job.count : (n - job.first) / job.every;
      if (grad.data && read < job.count)
        gather<T, true>(net, dh, lanes, net.at(grad, 0, read), grad.stride[1], grad.stride[3], H, first, lanes);
      backward_pointwise(net, n, first, lanes, dh, dc, c0);
      if (n == 0 && !job.grad_hidden_0) break;
      for (int64_t r0 = 0; r0 < 4 * H; r0 += sum)
        for (int64_t u0 = 0; u0 < rounded; u0 += 12) {
          const int64_t R = tile_units(u0);
          const BackwardTile<T> tile{panels + u0 * 4 * H + r0 * R, net.deltas(n, r0, first), dh + u0 * lanes,
                                     std::min(sum, 4 * H - r0), lanes, job.padded, H - u0, r0 == 0};
          R == 12 ? backward_row<T, 12>(tile) : R == 8 ? backward_row<T, 8>(tile) : backward_row<T, 4>(tile);
        }
    }
    for (int64_t u = 0; u < H; ++u) {
      std::copy_n(dc + u * lanes, lanes, net.per_unit(job.grad_cell_0, u, first));
      if (job.grad_hidden_0) std::copy_n(dh + u * lanes, lanes, net.per_unit(job.grad_hidden_0, u, first));
    }
  }
}

}  // namespace
