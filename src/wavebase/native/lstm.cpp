// One LSTM sequence of a stack of nets, forward and backward, for wavebase.native (which fills `Job`).
//
// Batch runs along the vector lanes and hidden units along rows, so every elementwise pass is contiguous whatever H is,
// and a step's product needs no transpose: [4H, K] weights times [K, B] states, K = H + inputs + 1 (the bias meets a
// row of ones). Each tile of the product (three units, their four gates, two vectors of batch) stays in registers and
// goes through the gates there, so pre-activations are never written. Backward mirrors it with [H, 4H] times [4H, B].
// The arithmetic of a lane depends on nothing but its own member and sequence: results are the same bit for bit for any
// number of threads, alone or in a stack. Gate order: input, forget, cell, output.

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "vector.hpp"

struct View {  // a tensor that torch owns: up to four strides, in elements; data is null where there is none
  void* data;
  int64_t stride[4];
};

struct Job {
  int64_t members, batch, steps, inputs, units, threads, tanh_input_gate;
  int64_t padded;       // batch, rounded up to whole vectors
  int64_t states_step;  // elements from one step of `states` to the next, at least (H + inputs + 1) * padded
  int64_t deltas_step;  // the same for `deltas`, at least 4H * padded
  View signal;          // [member, batch, step, input]
  View hidden, cell;    // [member, batch, unit], before the first step
  View weight_ih;       // [member, gate unit, input]
  View weight_hh;       // [member, gate unit, unit]
  View bias;            // [member, gate unit]
  View grad_states;     // [member, batch, step, unit], may be null
  View grad_cell;       // [member, batch, unit], may be null
  void* states;         // [member, steps + 1, states_step]: step n is [H + inputs + 1, padded] with h_{n-1}, x_n and 1
  void* tape;           // [member, step, unit, 5, padded]: i, f, g, o, cell; may be null in forward
  void* last_cell;      // [member, unit, padded]
  void* deltas;         // [member, steps, deltas_step]: step n is [4H, padded], gradients of the pre-activations; null
                        // where only the library needs them and no member is shared among threads
  void* grad_hidden_0;  // [member, unit, padded], may be null
  void* grad_cell_0;    // [member, unit, padded]
  void* grad_weights;   // [member, 4H, H], then [member, 4H, inputs], then [member, 4H]
};

namespace {

constexpr int64_t BLOCK_BYTES = 256;  // lanes of one pass over the weights: long enough to hide reading them
constexpr int PLANES = 5;

template <class T> constexpr int64_t BLOCK = BLOCK_BYTES / sizeof(T);

// Asks for huge pages: large buffers come fresh from the system every time, and small pages are slow to come by.
void advise(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t huge = int64_t{1} << 21;
  const int64_t begin = (reinterpret_cast<int64_t>(data) + huge - 1) / huge * huge;
  const int64_t end = (reinterpret_cast<int64_t>(data) + bytes) / huge * huge;
  if (data && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Memory that a thread keeps between calls.
class Arena {
 public:
  ~Arena() { std::free(data_); }
  template <class T> T* take(std::initializer_list<std::pair<T**, int64_t>> wanted) {
    int64_t total = 0;
    for (auto [_, count] : wanted) total += rounded(count * sizeof(T));
    if (total > size_) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<char*>(std::aligned_alloc(64, total));
      if (!data_) throw std::bad_alloc();
      advise(data_, total);
      size_ = total;
    }
    char* next = data_;
    for (auto [pointer, count] : wanted) {
      *pointer = reinterpret_cast<T*>(next);
      next += rounded(count * sizeof(T));
    }
    return reinterpret_cast<T*>(data_);
  }

 private:
  static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  char* data_ = nullptr;
  int64_t size_ = 0;
};
thread_local Arena arena, deltas_arena;

template <class T> struct Net {
  const Job& job;
  const int64_t member, units, rows;  // rows = K
  T* const first_delta;

  Net(const Job& j, int64_t m, T* own_deltas = nullptr)
      : job(j), member(m), units(j.units), rows(j.units + j.inputs + 1),
        first_delta(own_deltas ? own_deltas : static_cast<T*>(j.deltas) + m * j.steps * j.deltas_step) {}

  const T* at(const View& v, int64_t a, int64_t b = 0, int64_t c = 0) const {
    return static_cast<const T*>(v.data) + member * v.stride[0] + a * v.stride[1] + b * v.stride[2] + c * v.stride[3];
  }
  T* states(int64_t step, int64_t row, int64_t lane) const {
    return static_cast<T*>(job.states) + (member * (job.steps + 1) + step) * job.states_step + row * job.padded + lane;
  }
  T* deltas(int64_t step, int64_t row, int64_t lane) const {
    return first_delta + step * job.deltas_step + row * job.padded + lane;
  }
  T* tape(int64_t step, int64_t unit, int64_t lane) const {
    return static_cast<T*>(job.tape) + ((member * job.steps + step) * units + unit) * PLANES * job.padded + lane;
  }
  T* per_unit(void* data, int64_t unit, int64_t lane) const {
    return static_cast<T*>(data) + (member * units + unit) * job.padded + lane;
  }
};

// out[unit][lane] (+)= [batch, unit] of a tensor of any strides; lanes past the batch get zero.
template <class T, bool add>
void gather(const Net<T>& net, T* out, int64_t stride, const T* data, int64_t by_lane, int64_t by_unit, int64_t units,
            int64_t first, int64_t lanes) {
  const int64_t real = std::clamp<int64_t>(net.job.batch - first, 0, lanes);
  constexpr int64_t chunk = 64 / sizeof(T);  // a cache line of units at a time
  for (int64_t u0 = 0; u0 < units; u0 += chunk) {
    const int64_t u1 = std::min(units, u0 + chunk);
    for (int64_t b = 0; b < real; ++b) {
      const T* from = data + (first + b) * by_lane;
      for (int64_t u = u0; u < u1; ++u) {
        T& to = out[u * stride + b];
        to = add ? to + from[u * by_unit] : from[u * by_unit];
      }
    }
    if (!add)
      for (int64_t u = u0; u < u1; ++u) std::fill(out + u * stride + real, out + u * stride + lanes, T(0));
  }
}

// acc[r][v] += panel[k][r] * x[k][v]: the inner product loop, everything in registers.
template <class T, int R, int V>
inline __attribute__((always_inline)) void multiply(Vec<T> (&acc)[R][V], const T* panel, const T* x, int64_t count, int64_t stride) {
  for (int64_t k = 0; k < count; ++k, panel += R, x += stride) {
    Vec<T> column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = load<T>(x + v * LANES<T>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] += panel[r] * column[v];
    }
  }
}

// ---- forward ----

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

// ---- backward ----

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
  const View &grad = job.grad_states, &grad_c = job.grad_cell, &before = job.cell;
  for (int64_t first = begin; first < end; first += BLOCK<T>) {
    const int64_t lanes = std::min(BLOCK<T>, end - first);
    gather<T, false>(net, c0, lanes, net.at(before, 0), before.stride[1], before.stride[2], H, first, lanes);
    std::fill_n(dh, H * lanes, T(0));
    std::fill_n(dc, H * lanes, T(0));
    if (grad_c.data) gather<T, true>(net, dc, lanes, net.at(grad_c, 0), grad_c.stride[1], grad_c.stride[2], H, first, lanes);
    for (int64_t n = job.steps - 1; n >= 0; --n) {
      if (grad.data) gather<T, true>(net, dh, lanes, net.at(grad, 0, n), grad.stride[1], grad.stride[3], H, first, lanes);
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

// ---- gradients of the weights: the sum over steps and lanes of deltas times states ----

constexpr int64_t SPAN_BYTES = 4096;  // of steps and lanes at a time: the rows of a tile are about the first-level cache,
constexpr int64_t STRIP = 48;         // and those of a strip of deltas fit the second (measured)
constexpr int ROWS = 4, COLUMNS = TILE_VECTORS == 2 ? 6 : 2;

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
      Vec<T> left[ROWS];
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) left[r] = load<T>(deltas + r * t.padded + lane);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const Vec<T> right = load<T>(states + c * t.padded + lane);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) acc[c][r] += left[r] * right;
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
  T* hh = static_cast<T*>(job.grad_weights) + net.member * M * H;
  T* ih = static_cast<T*>(job.grad_weights) + job.members * M * H + net.member * M * I;
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

// The members, and where they are fewer than threads also parts of each, side by side. Parts are of `length` in grains.
template <class T> int run(const Job& job, void (*part)(const Job&, int64_t, int64_t, int64_t), int64_t length, int64_t grain) {
  const int64_t grains = length / grain, threads = std::max<int64_t>(1, job.threads);
  const int64_t parts = std::min(grains, (threads + job.members - 1) / job.members);
  const int64_t each = (grains + parts - 1) / parts * grain, tasks = job.members * parts;
  int failed = 0;
#pragma omp parallel for num_threads(static_cast<int>(std::min(threads, tasks))) schedule(dynamic) if (threads > 1 && tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t begin = task % parts * each, end = std::min(length, begin + each);
    try {
      if (begin < end) part(job, task / parts, begin, end);
    } catch (const std::bad_alloc&) {
#pragma omp atomic write
      failed = 1;
    }
  }
  return failed;
}

template <class T> int run_forward(const Job& job) {
  const int64_t size = job.members * static_cast<int64_t>(sizeof(T));
  advise(job.states, size * (job.steps + 1) * job.states_step);
  advise(job.tape, size * job.steps * job.units * PLANES * job.padded);
  return run<T>(job, forward<T>, job.padded, LANES<T>);
}

template <class T> int run_backward(const Job& job) {
  if (!job.deltas) {  // a thread's own, member after member: they stay in its caches, and no fresh memory is touched
    const auto whole = [](const Job& job, int64_t member, int64_t, int64_t) {
      T* deltas;
      deltas_arena.take<T>({{&deltas, job.steps * job.deltas_step}});
      const Net<T> net(job, member, deltas);
      backward(net, 0, job.padded);
      weights(net, 0, 4 * job.units);
    };
    return run<T>(job, whole, 1, 1);
  }
  const auto lanes = [](const Job& job, int64_t m, int64_t begin, int64_t end) { backward(Net<T>(job, m), begin, end); };
  const auto rows = [](const Job& job, int64_t m, int64_t begin, int64_t end) { weights(Net<T>(job, m), begin, end); };
  return run<T>(job, lanes, job.padded, LANES<T>) || run<T>(job, rows, 4 * job.units, ROWS);
}

}  // namespace

extern "C" {
int wavebase_vector_bytes() { return VECTOR_BYTES; }
int wavebase_lstm_forward_f32(const Job* job) { return run_forward<float>(*job); }
int wavebase_lstm_forward_f64(const Job* job) { return run_forward<double>(*job); }
int wavebase_lstm_backward_f32(const Job* job) { return run_backward<float>(*job); }
int wavebase_lstm_backward_f64(const Job* job) { return run_backward<double>(*job); }
}
