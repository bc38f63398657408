// The sequence forward, for some lanes of one member: per tile the product with a step's states, then the gates.

#pragma once
#include "job.hpp"

namespace {

template <class T> struct ForwardTile {  // pointers to the tile's first unit and lane
  const T *panel, *before;  // before: h_{n-1}, x_n and 1, [row][padded]
  T *after, *c, *tape;      // after: h_n, [unit][padded]; c: [unit][lanes]; tape may be null
  int64_t rows, lanes, padded;
  bool tanh_input_gate;
};

template <class T, int U, int V> __attribute__((noinline)) void forward_tile(const ForwardTile<T>& t) {
  Vec<T> acc[4 * U][V] = {};  // row 4 u + gate
  multiply<T, 4 * U, V>(acc, t.panel, t.before, t.rows, t.padded);
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vec<T> pre_i = acc[4 * u][v];
      const Vec<T> i = t.tanh_input_gate ? vtanh<T>(pre_i) : vsigmoid<T>(pre_i);
      const Vec<T> f = vsigmoid<T>(acc[4 * u + 1][v]), g = vtanh<T>(acc[4 * u + 2][v]), o = vsigmoid<T>(acc[4 * u + 3][v]);
      T* cell = t.c + u * t.lanes + v * LANES<T>;
      const Vec<T> c = f * load<T>(cell) + i * g;
      store<T>(cell, c);
      store<T>(t.after + u * t.padded + v * LANES<T>, o * vtanh<T>(c));
      if (t.tape) {
        T* tape = t.tape + u * PLANES * t.padded + v * LANES<T>;
        const Vec<T> planes[PLANES] = {i, f, g, o, c};
        for (int p = 0; p < PLANES; ++p) store<T>(tape + p * t.padded, planes[p]);
      }
    }
}

template <class T, int U> void forward_row(ForwardTile<T> t) {
  constexpr int V = TILE_VECTORS * LANES<T>;
  int64_t lane = 0;
  const auto advance = [&](int64_t by) { t.before += by, t.after += by, t.c += by, t.tape += t.tape ? by : 0; };
  for (; lane + V <= t.lanes; lane += V) forward_tile<T, U, TILE_VECTORS>(t), advance(V);
  for (; lane < t.lanes; lane += LANES<T>) forward_tile<T, U, 1>(t), advance(LANES<T>);
}

template <class T> void forward(const Job& job, int64_t member, int64_t begin, int64_t end) {  // lanes
  const Net<T> net(job, member);
  const int64_t H = net.units, I = job.inputs, K = net.rows, P = job.padded;
  T *panels, *c;
  arena.take<T>({{&panels, 4 * H * K}, {&c, H * std::min(BLOCK<T>, end - begin)}});
  for (int64_t u0 = 0; u0 < H; u0 += 3) {  // [tile][k][unit][gate]
    const int64_t U = std::min<int64_t>(3, H - u0);
    for (int64_t u = 0; u < U; ++u)
      for (int64_t gate = 0; gate < 4; ++gate) {
        T* out = panels + 4 * u0 * K + 4 * u + gate;
        const int64_t r = gate * H + u0 + u;
        const T *hh = net.at(job.weight_hh, r), *ih = net.at(job.weight_ih, r);
        for (int64_t k = 0; k < H; ++k, out += 4 * U) *out = hh[k * job.weight_hh.stride[2]];
        for (int64_t k = 0; k < I; ++k, out += 4 * U) *out = ih[k * job.weight_ih.stride[2]];
        *out = *net.at(job.bias, r);
      }
  }
  for (int64_t first = begin; first < end; first += BLOCK<T>) {
    const int64_t lanes = std::min(BLOCK<T>, end - first);
    const View &h0 = job.hidden, &c0 = job.cell, &x = job.signal;
    gather<T, false>(net, net.states(0, 0, first), P, net.at(h0, 0), h0.stride[1], h0.stride[2], H, first, lanes);
    gather<T, false>(net, c, lanes, net.at(c0, 0), c0.stride[1], c0.stride[2], H, first, lanes);
    for (int64_t n = 0; n < job.steps; ++n) {
      gather<T, false>(net, net.states(n, H, first), P, net.at(x, 0, n), x.stride[1], x.stride[3], I, first, lanes);
      std::fill_n(net.states(n, K - 1, first), lanes, T(1));
      for (int64_t u0 = 0; u0 < H; u0 += 3) {
        const ForwardTile<T> tile{panels + 4 * u0 * K, net.states(n, 0, first), net.states(n + 1, u0, first), c + u0 * lanes,
                                  job.tape ? net.tape(n, u0, first) : nullptr, K, lanes, P, job.tanh_input_gate != 0};
        const int64_t U = H - u0;
        U >= 3 ? forward_row<T, 3>(tile) : U == 2 ? forward_row<T, 2>(tile) : forward_row<T, 1>(tile);
      }
    }
    for (int64_t u = 0; u < H; ++u) std::copy_n(c + u * lanes, lanes, net.per_unit(job.last_cell, u, first));
  }
}

}  // namespace
