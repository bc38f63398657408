// One LSTM sequence of a stack of nets, forward and backward, for wavebase.native (which fills `Job`).
//
// Batch runs along the vector lanes and hidden units along rows, so every elementwise pass is contiguous whatever H is,
// and a step's product needs no transpose: [4H, K] weights times [K, B] states, K = H + inputs + 1 (the bias meets a
// row of ones). Each tile of the product (three units, their four gates, two vectors of batch) stays in registers and
// goes through the gates there, so pre-activations are never written. Backward mirrors it with [H, 4H] times [4H, B].
// The arithmetic of a lane depends on nothing but its own member and sequence: results are the same bit for bit for any
// number of threads, alone or in a stack. Gate order: input, forget, cell, output.

#include "backward.hpp"
#include "forward.hpp"
#include "weights.hpp"

namespace {

constexpr double FLOP_PER_THREAD = 1e7;  // a tenth of a millisecond, some ten times what waking a thread costs

// The members, and where they are fewer than threads also parts of each, side by side. Parts are of `length` in grains.
template <class T> int run(const Job& job, void (*part)(const Job&, int64_t, int64_t, int64_t), int64_t length, int64_t grain) {
  const double products = 8.0 * job.members * job.padded * job.steps * job.units * job.units;
  const auto worth = static_cast<int64_t>(std::min(products / FLOP_PER_THREAD, 1e9));  // threads that have enough to do
  const int64_t grains = length / grain, threads = std::clamp<int64_t>(worth, 1, std::max<int64_t>(1, job.threads));
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
