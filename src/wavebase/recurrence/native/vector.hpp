// Vectors of float or double as wide as the machine's, and exp, sigmoid and tanh on them.
//
// Errors (tests/test_recurrence.py measures them): exp and sigmoid within 2 ulp. tanh within 1 ulp for |x| < 0.625, where
// it is an odd polynomial, x + x^3 P(x^2), so that it is relatively exact as x -> 0 (writing it through sigmoid or
// exp would leave an absolute error of one ulp of 1 there); within 2 ulp elsewhere. NaN stays NaN.
// Coefficients: Chebyshev interpolants of (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2 and of (tanh(x) / x - 1) / x^2 in x^2
// on |x| <= 0.625; their truncation errors are below a tenth of an ulp.

#pragma once
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
// two vectors of batch a tile need 24 accumulators: only where there are 32 registers
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE_VECTORS = 2;
#else
constexpr int TILE_VECTORS = 1;
#endif

template <class T> struct Traits;
template <> struct Traits<float> {
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef float Loose __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr float round = 12582912.0f, low = -87.3f, high = 89.0f;  // 1.5 * 2^23; e^89 = inf here
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.4286068203094172321e-6f;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float exp[] = {0.5000000013475551165f,    0.16666666681634050555f,  0.041666464827967658992f,
                                  0.0083333109146734456792f, 0.0013933660796991896136f, 0.0001989100281888226316f};
  static constexpr float tanh[] = {-0.33333333171239697783f, 0.13333303420387606314f,    -0.053959227261968324219f,
                                   0.021768655803763216791f, -0.0083430852188324827197f, 0.0022917704562562631109f};
};
template <> struct Traits<double> {
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef double Loose __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  typedef uint64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr double round = 6755399441055744.0, low = -708.0, high = 710.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 0.6931471804855391383171082, ln2_low = 7.4406171100123967161e-11;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double exp[] = {0.50000000000000010233,    0.16666666666666667454,   0.041666666666624086845,
                                   0.0083333333333300586774,  0.0013888888917234205793, 0.00019841269863069373172,
                                   0.000024801521264122018574, 2.7557268435517562184e-6, 2.7620103584886964361e-7,
                                   2.5100397137931662895e-8};
  static constexpr double tanh[] = {-0.33333333333333332933,  0.13333333333333038628,    -0.053968253967893711018,
                                    0.021869488518867921194,  -0.008863235100174033185,  0.0035921217122266407159,
                                    -0.0014557751050964237562, 0.00058965910836350560408, -0.00023758563980884253573,
                                    0.000092561128866040052658, -0.000031189774344313343971, 6.4796525839094593497e-6};
};

template <class T> using Vec = typename Traits<T>::Vec;
template <class T> constexpr int LANES = VECTOR_BYTES / sizeof(T);

template <class T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const typename Traits<T>::Loose*>(p); }
template <class T> inline void store(T* p, Vec<T> v) { *reinterpret_cast<typename Traits<T>::Loose*>(p) = v; }

template <class T, int n> inline Vec<T> polynomial(const T (&c)[n], Vec<T> x) {
  Vec<T> y = x * c[n - 1] + c[n - 2];
#pragma GCC unroll 16
  for (int i = n - 3; i >= 0; --i) y = y * x + c[i];
  return y;
}

// max and min of a bound and x, x where it is NaN
template <class T> inline Vec<T> larger(Vec<T> bound, Vec<T> x) { return bound > x ? bound : x; }
template <class T> inline Vec<T> smaller(Vec<T> bound, Vec<T> x) { return bound < x ? bound : x; }
#if defined(__AVX512F__)  // one instruction, which compilers do not find
template <> inline Vec<float> larger<float>(Vec<float> bound, Vec<float> x) { return _mm512_max_ps(bound, x); }
template <> inline Vec<float> smaller<float>(Vec<float> bound, Vec<float> x) { return _mm512_min_ps(bound, x); }
template <> inline Vec<double> larger<double>(Vec<double> bound, Vec<double> x) { return _mm512_max_pd(bound, x); }
template <> inline Vec<double> smaller<double>(Vec<double> bound, Vec<double> x) { return _mm512_min_pd(bound, x); }
#elif defined(__AVX__)
template <> inline Vec<float> larger<float>(Vec<float> bound, Vec<float> x) { return _mm256_max_ps(bound, x); }
template <> inline Vec<float> smaller<float>(Vec<float> bound, Vec<float> x) { return _mm256_min_ps(bound, x); }
template <> inline Vec<double> larger<double>(Vec<double> bound, Vec<double> x) { return _mm256_max_pd(bound, x); }
template <> inline Vec<double> smaller<double>(Vec<double> bound, Vec<double> x) { return _mm256_min_pd(bound, x); }
#endif

// e^x = 2^n e^r with n = round(x / ln 2); adding 1.5 * 2^mantissa rounds, and leaves n in the low bits. Arguments are
// clamped where e^x over- or underflows.
template <class T> inline Vec<T> vexp(Vec<T> x) {
  using C = Traits<T>;
  x = smaller<T>(Vec<T>{} + C::high, larger<T>(Vec<T>{} + C::low, x));
  const Vec<T> shifted = x * T(1.4426950408889634074) + C::round;
  const Vec<T> n = shifted - C::round;
  const Vec<T> r = x - n * C::ln2_high - n * C::ln2_low;
  const Vec<T> e = (r * r * polynomial(C::exp, r) + r) + T(1);
  typename C::Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << C::mantissa) + (static_cast<decltype(bits[0] + 0)>(C::bias) << C::mantissa);
  Vec<T> scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return e * scale;
}

template <class T> inline Vec<T> vsigmoid(Vec<T> x) { return T(1) / (T(1) + vexp<T>(-x)); }

// Whether a condition holds in every lane.
template <class T> inline bool everywhere(decltype(Vec<T>{} < Vec<T>{}) condition) {
#if defined(__AVX512F__)
  __m512i bits;
  std::memcpy(&bits, &condition, sizeof bits);
  return _mm512_test_epi32_mask(bits, bits) == 0xffff;
#elif defined(__AVX__)
  __m256 bits;
  std::memcpy(&bits, &condition, sizeof bits);
  return _mm256_movemask_ps(bits) == 0xff;
#else
  bool all = true;
  for (int i = 0; i < LANES<T>; ++i) all &= condition[i] != 0;
  return all;
#endif
}

template <class T> inline Vec<T> vtanh(Vec<T> x) {
  const Vec<T> size = larger<T>(-x, x), z = x * x;
  const Vec<T> near = x * z * polynomial(Traits<T>::tanh, z) + x;
  const auto is_near = size < T(0.625);
  if (everywhere<T>(is_near)) return near;  // the same bits, for a third of the work
  const Vec<T> far = T(1) - T(2) / (vexp<T>(size + size) + T(1));
  return is_near ? near : (x < T(0) ? -far : far);
}

// a0 + a1, a2 + a3, ..., b0 + b1, ...
template <class T, int... i> inline Vec<T> neighbours(Vec<T> a, Vec<T> b, std::integer_sequence<int, i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, 2 * i...) + __builtin_shufflevector(a, b, 2 * i + 1 ...);
#else
  using Bits = typename Traits<T>::Bits;
  return __builtin_shuffle(a, b, Bits{2 * i...}) + __builtin_shuffle(a, b, Bits{2 * i + 1 ...});
#endif
}
template <class T> inline Vec<T> neighbours(Vec<T> a, Vec<T> b) {
  return neighbours<T>(a, b, std::make_integer_sequence<int, LANES<T>>());
}

// The sum over the lanes of each of n vectors (a power of two up to LANES), in the first n lanes; v is overwritten.
// The order of adding does not depend on n.
template <class T, int n> inline Vec<T> lane_sums(Vec<T> (&v)[n]) {
  int left = n;
#pragma GCC unroll 4
  for (int width = LANES<T>; width > 1; width /= 2) {
    if (left == 1) v[0] = neighbours<T>(v[0], v[0]);
#pragma GCC unroll 8
    for (int i = 0; i < left / 2; ++i) v[i] = neighbours<T>(v[2 * i], v[2 * i + 1]);
    left = left > 1 ? left / 2 : 1;
  }
  return v[0];
}
