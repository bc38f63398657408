// What a call works on: sizes and tensors, as filled by lstm.py, and how to reach into them.

#pragma once
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
  int64_t first, every, count;  // steps that grad_states is given for: first, first + every, ..., `count` in all
  View signal;          // [member, batch, step, input]
  View hidden, cell;    // [member, batch, unit], before the first step
  View weight_ih;       // [member, gate unit, input]
  View weight_hh;       // [member, gate unit, unit]
  View bias;            // [member, gate unit]
  View grad_states;     // [member, batch, one of `count` steps, unit], may be null
  View grad_hidden;     // [member, batch, unit], after the last step, may be null
  View grad_cell;       // the same
  void* states;         // [member, steps + 1, states_step]: step n is [H + inputs + 1, padded] with h_{n-1}, x_n and 1
  void* tape;           // [member, step, unit, 5, padded]: i, f, g, o, cell; may be null in forward
  void* last_cell;      // [member, unit, padded]
  void* deltas;         // [member, steps, deltas_step]: step n is [4H, padded], gradients of the pre-activations; null
                        // where only the library needs them and no member is shared among threads
  void* grad_hidden_0;  // [member, unit, padded], may be null
  void* grad_cell_0;    // [member, unit, padded]
  void* grad_weights;   // [member, 4H, inputs], then [member, 4H, H], then [member, 4H]
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
  for (int64_t b = 0; b < real; ++b) {
    const T* from = data + (first + b) * by_lane;
    for (int64_t u = 0; u < units; ++u) {
      T& to = out[u * stride + b];
      to = add ? to + from[u * by_unit] : from[u * by_unit];
    }
  }
  if (!add)
    for (int64_t u = 0; u < units; ++u) std::fill(out + u * stride + real, out + u * stride + lanes, T(0));
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

}  // namespace
