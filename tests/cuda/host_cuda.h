// CUDA C as C++ on the host: blocks run one after another, threads of a block take turns between barriers.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

using namespace std;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(size)
#define __align__(size) __attribute__((aligned(size)))

struct Number { unsigned x; };
static Number blockIdx, blockDim, threadIdx;
static ucontext_t scheduler;
static vector<ucontext_t> threads_of_block;
static vector<vector<char>> stacks;
static vector<char> finished;
static void (*body)(void **);
static void **parameters;

static void __syncthreads() { swapcontext(&threads_of_block[threadIdx.x], &scheduler); }

static void __syncwarp() { __syncthreads(); }

template <class T> static T __shfl_xor_sync(unsigned mask, T value, int distance) {
  static T shown[1024];
  shown[threadIdx.x] = value;
  __syncthreads();
  T found = shown[threadIdx.x ^ distance];
  __syncthreads();
  return found;
}

struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };

static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }

struct __half {
  _Float16 value;
  __half() = default;
  explicit __half(float x) : value((_Float16)x) {}
  explicit __half(double x) : value((_Float16)x) {}
};
static __half __float2half_rn(float x) { return __half(x); }
static float __half2float(__half x) { return (float)x.value; }

// Matrices: each thread has all of an operand and eight elements of a sum, which no other thread has.
static float number(__half x) { return (float)x.value; }
static float number(unsigned short x) { return __int_as_float((int)x << 16); }
static float number(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return isfinite(x) ? __int_as_float((bits + 0x1000) & 0xFFFFE000) : x;
}

template <class T, int R, int C, bool turned> struct Matrix { float x[R][C]; };
typedef Matrix<__half, 16, 16, false> matrix_left_f16_row, matrix_right_f16_row;
typedef Matrix<__half, 16, 16, true> matrix_left_f16_col, matrix_right_f16_col;
typedef Matrix<unsigned short, 16, 16, false> matrix_left_bf16_row, matrix_right_bf16_row;
typedef Matrix<unsigned short, 16, 16, true> matrix_left_bf16_col, matrix_right_bf16_col;
typedef Matrix<float, 16, 8, false> matrix_left_tf32_row;
typedef Matrix<float, 16, 8, true> matrix_left_tf32_col;
typedef Matrix<float, 8, 16, false> matrix_right_tf32_row;
typedef Matrix<float, 8, 16, true> matrix_right_tf32_col;
template <int depth> struct Sum { float x[8]; };
typedef Sum<16> matrix_sum_m16n16k16;
typedef Sum<8> matrix_sum_m16n16k8;

template <class P> static void check_place(P *p, int pitch) {
  if ((size_t)p % 32 || pitch * sizeof(P) % 16) abort();
}

template <class T, int R, int C, bool turned>
static void load_matrix(Matrix<T, R, C, turned> &f, const T *p, int pitch) {
  check_place(p, pitch);
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) f.x[r][c] = number(turned ? p[c * pitch + r] : p[r * pitch + c]);
}

template <class T, int K, bool one, bool other>
static void multiply(Sum<K> &sum, const Matrix<T, 16, K, one> &a, const Matrix<T, K, 16, other> &b) {
  int row = threadIdx.x % 32 / 2, first = threadIdx.x % 2 * 8;
  for (int n = 0; n < 8; n++)
    for (int k = 0; k < K; k++) sum.x[n] += a.x[row][k] * b.x[k][first + n];
}

template <int depth> static void store_matrix(float *p, int pitch, const Sum<depth> &sum) {
  check_place(p, pitch);
  int row = threadIdx.x % 32 / 2, first = threadIdx.x % 2 * 8;
  for (int n = 0; n < 8; n++) p[row * pitch + first + n] = sum.x[n];
}

static void one_thread() {
  body(parameters);
  finished[threadIdx.x] = 1;
}

static void run_block_with_barriers(unsigned count) {
  threads_of_block.resize(count);
  stacks.resize(count);
  finished.assign(count, 0);
  for (unsigned t = 0; t < count; t++) {
    stacks[t].resize(256 << 10);
    getcontext(&threads_of_block[t]);
    threads_of_block[t].uc_stack.ss_sp = stacks[t].data();
    threads_of_block[t].uc_stack.ss_size = stacks[t].size();
    threads_of_block[t].uc_link = &scheduler;
    makecontext(&threads_of_block[t], one_thread, 0);
  }
  for (bool more = true; more;) {
    more = false;
    for (unsigned t = 0; t < count; t++) {
      if (finished[t]) continue;
      threadIdx.x = t;
      swapcontext(&scheduler, &threads_of_block[t]);
      more |= !finished[t];
    }
  }
}

static void run_grid(void (*kernel)(void **), bool barriers, void **given, unsigned blocks, unsigned count) {
  body = kernel, parameters = given, blockDim.x = count;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    if (barriers) { run_block_with_barriers(count); continue; }
    for (threadIdx.x = 0; threadIdx.x < count; threadIdx.x++) body(parameters);
  }
}

// An argument as it is given; memory begins at multiples of 64 bytes, which copies of several elements need.
template <class A> static A argument(void *given) {
  A value = *(A *)given;
  if constexpr (is_pointer<A>::value) if ((size_t)value % 64) abort();
  return value;
}

template <class... A, size_t... I>
static void apply(void (*kernel)(A...), void **given, index_sequence<I...>) { kernel(argument<A>(given[I])...); }

template <class... A>
static void apply(void (*kernel)(A...), void **given) { apply(kernel, given, index_sequence_for<A...>()); }
