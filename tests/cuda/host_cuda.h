// CUDA C as C++ on the host: blocks run one after another, threads of a block take turns between barriers.
#include <cmath>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

using namespace std;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(size)

struct Number { unsigned x; };
static Number blockIdx, blockDim, threadIdx;
static ucontext_t scheduler;
static vector<ucontext_t> threads_of_block;
static vector<vector<char>> stacks;
static vector<char> finished;
static void (*body)(void **);
static void **parameters;

static void __syncthreads() { swapcontext(&threads_of_block[threadIdx.x], &scheduler); }

static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }

struct __half {
  _Float16 value;
  __half() = default;
  explicit __half(float x) : value((_Float16)x) {}
  explicit __half(double x) : value((_Float16)x) {}
};
static __half __float2half_rn(float x) { return __half(x); }
static float __half2float(__half x) { return (float)x.value; }

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

template <class... A, size_t... I>
static void apply(void (*kernel)(A...), void **given, index_sequence<I...>) { kernel(*(A *)given[I]...); }

template <class... A>
static void apply(void (*kernel)(A...), void **given) { apply(kernel, given, index_sequence_for<A...>()); }
