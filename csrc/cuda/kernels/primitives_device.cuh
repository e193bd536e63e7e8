// The primitives of the kernel on a device. The only file with shuffles, barriers and asm; the
// emulator has the same names in emulate/primitives_fiber.h. No CUDA header is included: what is
// used here the compiler knows by itself.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"

#define WF_INLINE static __device__ __forceinline__
#define WF_UNROLL _Pragma("unroll")
#define WF_UNROLL_FOUR _Pragma("unroll 4")
#define WF_ROLLED _Pragma("unroll 1")
#define WF_REGISTERS(type, name, count) type name[(count) > 0 ? (count) : 1]

namespace wavernn_fast::gpu {

#define WF_CONSTANT(field, constant, macro) constexpr int constant = macro;
WF_SHAPE(WF_CONSTANT)
#undef WF_CONSTANT

struct Float2 {
  float x, y;
};

// --- who am I ------------------------------------------------------------------------------------

WF_INLINE int thread_index() { return threadIdx.x; }
WF_INLINE int lane_index() { return threadIdx.x & 31; }
WF_INLINE int warp_index() { return threadIdx.x >> 5; }
WF_INLINE int block_index() { return blockIdx.x; }
WF_INLINE float* shared_memory() {
  extern __shared__ float4 dynamic_shared[];
  return reinterpret_cast<float*>(dynamic_shared);
}
WF_INLINE long long clock_ticks() { return clock64(); }

// --- arithmetic ----------------------------------------------------------------------------------

WF_INLINE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
WF_INLINE float add(float a, float b) { return __fadd_rn(a, b); }
WF_INLINE float sub(float a, float b) { return __fsub_rn(a, b); }
WF_INLINE float mul(float a, float b) { return __fmul_rn(a, b); }
WF_INLINE float largest(float a, float b) { return fmaxf(a, b); }
WF_INLINE float smallest(float a, float b) { return fminf(a, b); }
WF_INLINE float reciprocal(float x) { return __frcp_rn(x); }
WF_INLINE float square_root(float x) { return __fsqrt_rn(x); }
WF_INLINE int round_to_int(float x) { return __float2int_rn(x); }
WF_INLINE float to_float(int x) { return __int2float_rn(x); }
WF_INLINE float absolute(float x) { return fabsf(x); }
WF_INLINE long long to_fixed(float x) { return __float2ll_rn(x); }
WF_INLINE float of_fixed(long long x) { return __ll2float_rn(x); }
WF_INLINE float float_of_bits(int x) { return __int_as_float(x); }
WF_INLINE int bits_of_float(float x) { return __float_as_int(x); }
WF_INLINE unsigned multiply_high(unsigned a, unsigned b) { return __umulhi(a, b); }
WF_INLINE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
WF_INLINE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x, of which the compiler knows nothing: what follows from it is computed where it is used.
WF_INLINE int hidden_value(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// --- weights -------------------------------------------------------------------------------------

// Two neighbouring weights of a row as they are kept. `volatile` pins loads and conversions where
// they are written: a compiler that may repeat a load reads weights from memory inside the loop,
// and one that may hoist a conversion keeps fp16 weights as fp32 and spills.
#if WF_FP16
using Weight = unsigned;
WF_INLINE Float2 widen(Weight w) {
  Float2 r;
#if __CUDA_ARCH__ >= 530
  asm volatile(
      "{.reg .b16 lo, hi;\n\t mov.b32 {lo, hi}, %2;\n\t cvt.f32.f16 %0, lo;\n\t"
      "cvt.f32.f16 %1, hi;}"
      : "=f"(r.x), "=f"(r.y)
      : "r"(w));
#endif
  return r;
}
WF_INLINE Weight load_weight(const unsigned* at) {
  Weight w;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(w) : "l"(at));
  return w;
}
WF_INLINE Weight shared_weight(const unsigned* at) { return *at; }
WF_INLINE void shared_weights(const unsigned* at, Weight* out) {
  const uint4 v = *reinterpret_cast<const uint4*>(at);
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}
#else
using Weight = Float2;
WF_INLINE Float2 widen(Weight w) { return w; }
WF_INLINE Weight load_weight(const unsigned* at) {
  Weight w;
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(w.x), "=f"(w.y) : "l"(at));
  return w;
}
WF_INLINE Weight shared_weight(const unsigned* at) { return *reinterpret_cast<const Weight*>(at); }
// 16 bytes of them.
WF_INLINE void shared_weights(const unsigned* at, Weight* out) {
  const float4 v = *reinterpret_cast<const float4*>(at);
  out[0] = {v.x, v.y};
  out[1] = {v.z, v.w};
}
#endif
constexpr int kPairWords = WF_FP16 ? 1 : 2;

// --- tiles of 16 x 16 weights --------------------------------------------------------------------

// One lane's share of a tile, 8 weights in fp16: operand A of mma.m16n8k16 (plan/gpu_many_pack.cpp
// says which).
constexpr int kTileWords = 4;
WF_INLINE void load_tile(const unsigned* at, unsigned* out) {
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "l"(at));
}
WF_INLINE void shared_tile(const unsigned* at, unsigned* out) {
  const uint4 v = *reinterpret_cast<const uint4*>(at);
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}
WF_INLINE void keep_tile(unsigned* at, const unsigned* tile) {
  *reinterpret_cast<uint4*>(at) = make_uint4(tile[0], tile[1], tile[2], tile[3]);
}

// sums += tile x activations of 16 columns for 8 streams. Lane l has, of the activations, stream
// l / 4 and columns 2 (l % 4), the next, and those 8 further; of the sums, rows l / 4 and
// l / 4 + 8 for streams 2 (l % 4) and the next.
WF_INLINE void multiply_tile(const unsigned* tile, unsigned low, unsigned high, float* sums) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(tile[0]), "r"(tile[1]), "r"(tile[2]), "r"(tile[3]), "r"(low), "r"(high));
#elif __CUDA_ARCH__ >= 750
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(tile[0]), "r"(tile[1]), "r"(low));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(tile[2]), "r"(tile[3]), "r"(high));
#endif
}

// Two values rounded to fp16, the first in the low half; and back.
WF_INLINE unsigned pack_halves(float low, float high) {
  unsigned r;
  asm("{.reg .b16 lo, hi;\n\t cvt.rn.f16.f32 lo, %1;\n\t cvt.rn.f16.f32 hi, %2;\n\t"
      "mov.b32 %0, {lo, hi};}"
      : "=r"(r)
      : "f"(low), "f"(high));
  return r;
}
WF_INLINE float half_value(unsigned half) {
  float r;
  asm("{.reg .b16 lo, hi;\n\t mov.b32 {lo, hi}, %1;\n\t cvt.f32.f16 %0, lo;}"
      : "=f"(r)
      : "r"(half));
  return r;
}

// --- memory --------------------------------------------------------------------------------------

WF_INLINE Float2 load2(const float* at) {  // shared memory, 8-byte aligned
  const float2 v = *reinterpret_cast<const float2*>(at);
  return {v.x, v.y};
}
WF_INLINE void store2(float* at, Float2 v) {
  *reinterpret_cast<float2*>(at) = make_float2(v.x, v.y);
}
WF_INLINE void load4(const float* at, float* v) {  // 16-byte aligned, as store4
  const float4 four = *reinterpret_cast<const float4*>(at);
  v[0] = four.x;
  v[1] = four.y;
  v[2] = four.z;
  v[3] = four.w;
}
WF_INLINE void store4(float* at, const float* v) {
  *reinterpret_cast<float4*>(at) = make_float4(v[0], v[1], v[2], v[3]);
}
WF_INLINE float load_constant(const float* at) { return __ldg(at); }
WF_INLINE Float2 load_constant2(const float* at) {
  const float2 v = __ldg(reinterpret_cast<const float2*>(at));
  return {v.x, v.y};
}

// --- within a block ------------------------------------------------------------------------------

// `where` names the barrier in the emulator's reports.
WF_INLINE void block_sync(int where) {
  (void)where;
  __syncthreads();
}

// Barriers of some warps: `threads` of them wait at the barrier of that number, or announce that
// they were there and go on.
WF_INLINE void part_sync(int where, int number, int threads) {
  (void)where;
  __syncwarp();
  asm volatile("bar.sync %0, %1;" : : "r"(number), "r"(threads) : "memory");
}
WF_INLINE void part_arrive(int where, int number, int threads) {
  (void)where;
  __syncwarp();
  asm volatile("bar.arrive %0, %1;" : : "r"(number), "r"(threads) : "memory");
}
WF_INLINE void warp_sync() { __syncwarp(); }

WF_INLINE float from_lane(float x, int distance) {
  return __shfl_xor_sync(0xffffffffu, x, distance);
}

// x of one lane, the same for all.
WF_INLINE float of_lane(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }

// Sum of x over groups of 2 * `from` lanes, in every lane: partners at distance `from`, half of it,
// down to 1. Two distances at a time: the three shuffles of a pair of levels do not wait for each
// other, and the sums are the same, (a + b) + (c + d) seen from any of the four lanes.
WF_INLINE float butterfly(float x, int from) {
  WF_UNROLL
  for (int distance = from; distance > 0; distance >>= 2) {
    if (distance == 1) return add(x, from_lane(x, 1));
    const int half = distance >> 1;
    const float far = from_lane(x, distance), near = from_lane(x, half);
    x = add(add(x, far), add(near, from_lane(x, distance + half)));
  }
  return x;
}

// Lane (32 / P) j, with P the next power of two, gets the sum of x[j] over the warp. Every sum is
// added in the order of `butterfly`; halving the array at every distance takes P + 4 shuffles
// instead of 5 a sum.
template <int kCount>
WF_INLINE void halve(float* v, int distance) {
  const bool upper = lane_index() & distance;
  WF_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const float keep = upper ? v[i + kCount] : v[i];
    v[i] = add(keep, from_lane(upper ? v[i] : v[i + kCount], distance));
  }
}
WF_INLINE float warp_sums(const float* x, int count) {
  // Every index below is a constant once `count` is one, so that v stays in registers.
  const int padded = count > 16 ? 32 : count > 8 ? 16 : count > 4 ? 8 : count > 2 ? 4 : count;
  float v[32];
  WF_UNROLL
  for (int i = 0; i < 32; ++i) v[i] = i < count ? x[i] : 0.0f;
  if (padded >= 32) halve<16>(v, 16);
  if (padded >= 16) halve<8>(v, 256 / padded);
  if (padded >= 8) halve<4>(v, 128 / padded);
  if (padded >= 4) halve<2>(v, 64 / padded);
  if (padded >= 2) halve<1>(v, 32 / padded);
  return butterfly(v[0], padded > 1 ? 16 / padded : 16);
}

WF_INLINE float warp_max(float x) {
#if __CUDA_ARCH__ >= 800
  const int bits = __float_as_int(x);
  const int key = __reduce_max_sync(0xffffffffu, bits ^ ((bits >> 31) & 0x7fffffff));
  return __int_as_float(key ^ ((key >> 31) & 0x7fffffff));
#else
  WF_UNROLL
  for (int distance = 16; distance > 0; distance >>= 1)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
#endif
}
// Sum over the warp, in every lane.
WF_INLINE unsigned warp_total(unsigned x) {
#if __CUDA_ARCH__ >= 800
  return __reduce_add_sync(0xffffffffu, x);
#else
  WF_UNROLL
  for (int distance = 16; distance > 0; distance >>= 1)
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
#endif
}
// Sum of x over this lane and those before it: six lanes at a time, twice. Shuffles of one round do
// not wait for each other; five rounds of one would.
WF_INLINE unsigned warp_prefix_sum(unsigned x) {
  WF_UNROLL
  for (int distance = 1; distance < 32; distance *= 6) {
    unsigned sum = x;
    WF_UNROLL
    for (int i = 1; i < 6; ++i) {
      const unsigned below = __shfl_up_sync(0xffffffffu, x, i * distance);
      sum += lane_index() >= i * distance ? below : 0u;
    }
    x = sum;
  }
  return x;
}
WF_INLINE unsigned warp_ballot(bool yes) { return __ballot_sync(0xffffffffu, yes); }
WF_INLINE int first_lane(unsigned ballot) { return __ffs(ballot) - 1; }

// --- within a cluster of blocks ------------------------------------------------------------------

// Values pushed into a block's shared memory are counted there, in bytes: an Arrivals goes on to
// its next phase when as many have come as were announced. Blocks of a cluster follow each other in
// the grid. Before compute capability 9.0 there are no clusters, and the planner makes none.
using Arrivals = unsigned long long;

#if __CUDA_ARCH__ >= 900
WF_INLINE unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}
// Where this block's shared memory begins in that of a peer: offsets are the same.
WF_INLINE unsigned peer_memory(int rank) {
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(shared_memory())), "r"(rank));
  return address;
}
WF_INLINE unsigned shared_offset(const void* at) {
  return shared_address(at) - shared_address(shared_memory());
}
// By one thread; a phase has one announcement.
WF_INLINE void init_arrivals(Arrivals* at) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" : : "r"(shared_address(at)) : "memory");
}
// To the whole cluster, at its next barrier.
WF_INLINE void publish_arrivals() {
  asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
}
WF_INLINE void expect_bytes(Arrivals* at, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(shared_address(at)), "r"(bytes)
               : "memory");
}
WF_INLINE void push(float* at, Arrivals* arrivals, int rank, float value) {
  const unsigned peer = peer_memory(rank);
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
               :
               : "r"(peer + shared_offset(at)), "r"(__float_as_uint(value)),
                 "r"(peer + shared_offset(arrivals))
               : "memory");
}
// Four neighbouring values, 16-byte aligned.
WF_INLINE void push4(float* at, Arrivals* arrivals, int rank, const float* v) {
  const unsigned peer = peer_memory(rank);
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];"
      :
      : "r"(peer + shared_offset(at)), "r"(__float_as_uint(v[0])), "r"(__float_as_uint(v[1])),
        "r"(__float_as_uint(v[2])), "r"(__float_as_uint(v[3])), "r"(peer + shared_offset(arrivals))
      : "memory");
}
// Whether the phase of this parity is over; may sleep for a while. Block scope is enough for what
// comes into shared memory, which no cache keeps; a wider one empties L1 at every look.
WF_INLINE bool phase_over(Arrivals* at, int parity) {
  unsigned over;
  asm volatile(
      "{.reg .pred p;\n\t"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;}"
      : "=r"(over)
      : "r"(shared_address(at)), "r"(parity)
      : "memory");
  return over != 0;
}
WF_INLINE void cluster_sync(int where) {
  (void)where;
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" : : : "memory");
}
#else
WF_INLINE void init_arrivals(Arrivals*) {}
WF_INLINE void publish_arrivals() {}
WF_INLINE void expect_bytes(Arrivals*, unsigned) {}
WF_INLINE void push(float*, Arrivals*, int, float) {}
WF_INLINE void push4(float*, Arrivals*, int, const float*) {}
WF_INLINE bool phase_over(Arrivals*, int) { return true; }
WF_INLINE void cluster_sync(int) {}
#endif

// --- between blocks ------------------------------------------------------------------------------

#if __CUDA_ARCH__ >= 700
#define WF_ST_WORD "st.relaxed.gpu.global.u64"
#define WF_LD_WORDS "ld.relaxed.gpu.global.v2.u64"
#else
#define WF_ST_WORD "st.volatile.global.u64"
#define WF_LD_WORDS "ld.volatile.global.v2.u64"
#endif

WF_INLINE void publish(Word* at, float value, unsigned tag) {
  const Word word = static_cast<Word>(tag) << 32 | __float_as_uint(value);
  asm volatile(WF_ST_WORD " [%0], %1;" : : "l"(at), "l"(word) : "memory");
}

struct Poller {
  const KernelArgs& args;
  volatile int* stop;  // shared: this block has given up
};

// `count` pairs of words, `stride` words apart. Each half of a load is one word with its tag, so
// the hardware need not keep the halves together.
WF_INLINE void load_words(const Poller& poller, const Word* at, int stride, int count, Word* out) {
  (void)poller;
  WF_UNROLL
  for (int i = 0; i < count; ++i)
    asm volatile(WF_LD_WORDS " {%0, %1}, [%2];"
                 : "=l"(out[2 * i]), "=l"(out[2 * i + 1])
                 : "l"(at + i * stride)
                 : "memory");
}

// Words of 32 bits, and four neighbours of them, each of which stands for itself.
WF_INLINE void store_word(unsigned* at, unsigned word) {
#if __CUDA_ARCH__ >= 700
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(at), "r"(word) : "memory");
#endif
}
WF_INLINE void load_words4(const Poller& poller, const unsigned* at, unsigned* out) {
  (void)poller;
#if __CUDA_ARCH__ >= 700
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "l"(at)
               : "memory");
#endif
}

// The emulator can pretend that words are there which are not.
WF_INLINE bool checked(bool ready) { return ready; }

// Called, not inlined: it is never on the way of a sample.
static __device__ __noinline__ void give_up(KernelStatus* status, long long word, unsigned tag) {
  const unsigned place =
      static_cast<unsigned>(block_index()) << kStallWordBits | static_cast<unsigned>(word);
  atomicCAS(&status->stall, 0ull, static_cast<unsigned long long>(place) << 32 | tag);
}

// After a look at words from `at` that were not there: false if this thread is to wait no longer.
// The first to give up says what it waited for.
WF_INLINE bool keep_polling(const Poller& poller, unsigned& tries, const Word* at, unsigned tag) {
  if (++tries < poller.args.poll_limit && !*poller.stop) return true;
  give_up(poller.args.status, at - poller.args.words, tag);
  *poller.stop = 1;
  return false;
}

// The same after a look at an Arrivals, by time: such a look sleeps for as long as the device
// likes.
WF_INLINE bool keep_waiting(const Poller& poller, long long& deadline, const Word* at,
                            unsigned tag) {
  constexpr long long kPatience = 4000000000;  // ns
  long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  if (deadline == 0) deadline = now + kPatience;
  if (now < deadline && !*poller.stop) return true;
  give_up(poller.args.status, at - poller.args.words, tag);
  *poller.stop = 1;
  return false;
}

// Adds to a word in L2; nobody waits for the result.
WF_INLINE void add_to_word(Word* at, Word value) {
  asm volatile("red.global.add.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
}

}  // namespace wavernn_fast::gpu
