// One instruction of a matrix unit on given operands; prints the bits of the results.
//
//     check_gpu INSTRUCTION TILES < operands > results
//
// Operands are 32-bit words, tile after tile: A row by row, B column by column, each row or column
// of the words of the instruction's k elements; then C, row by row, a word for each number (the low
// half of it for float16).  Results are hexadecimal, a word a line, in the order of C.  The layout
// of fragments is the same for all types when it is counted in words (PTX ISA, "Matrix fragments
// for mma.m16n8k16" and following; "Register fragments and shared memory matrix layouts").

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

enum Output { FLOAT32, FLOAT16 };

__device__ inline uint32_t pack(uint32_t low, uint32_t high) { return low & 0xffff | high << 16; }

// What a thread holds of C, and of D: rows g and g + 8, columns 2t and 2t + 1.
struct Fragment {
    uint32_t word[4];
};

__device__ inline uint32_t place(int i, int row, int t) {
    return (row + (i / 2) * 8) * 8 + 2 * t + i % 2;
}

// mma.sync.aligned on 8 words of k elements: A has four registers, B two.
#define DEFINE_MMA_F32(NAME, SHAPE, TYPE)                                                          \
    struct NAME {                                                                                  \
        static constexpr int words = 8, rows = 16;                                                 \
        static constexpr Output output = FLOAT32;                                                  \
        __device__ static void run(uint32_t *d, const uint32_t *a, const uint32_t *b) {            \
            asm volatile("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE                   \
                         ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"    \
                         : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                          \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));      \
        }                                                                                          \
    };
#define DEFINE_MMA_F16(NAME, SHAPE, TYPE)                                                          \
    struct NAME {                                                                                  \
        static constexpr int words = 8, rows = 16;                                                 \
        static constexpr Output output = FLOAT16;                                                  \
        __device__ static void run(uint32_t *d, const uint32_t *a, const uint32_t *b) {            \
            asm volatile("mma.sync.aligned." SHAPE ".row.col.f16." TYPE "." TYPE                   \
                         ".f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"                    \
                         : "+r"(d[0]), "+r"(d[1])                                                  \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));      \
        }                                                                                          \
    };
// Half as long: A has two registers, B one.
#define DEFINE_SHORT_MMA_F32(NAME, SHAPE, TYPE)                                                    \
    struct NAME {                                                                                  \
        static constexpr int words = 4, rows = 16;                                                 \
        static constexpr Output output = FLOAT32;                                                  \
        __device__ static void run(uint32_t *d, const uint32_t *a, const uint32_t *b) {            \
            asm volatile("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE                   \
                         ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                \
                         : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                          \
                         : "r"(a[0]), "r"(a[1]), "r"(b[0]));                                       \
        }                                                                                          \
    };

DEFINE_MMA_F32(MmaFloat16, "m16n8k16", "f16")
DEFINE_MMA_F16(MmaFloat16Float16, "m16n8k16", "f16")
DEFINE_MMA_F32(MmaBfloat16, "m16n8k16", "bf16")
DEFINE_MMA_F32(MmaTf32, "m16n8k8", "tf32")
DEFINE_SHORT_MMA_F32(MmaK8Float16, "m16n8k8", "f16")
DEFINE_SHORT_MMA_F32(MmaK8Bfloat16, "m16n8k8", "bf16")
DEFINE_SHORT_MMA_F32(MmaK4Tf32, "m16n8k4", "tf32")
#ifdef WITH_FP8
DEFINE_MMA_F32(MmaE4m3, "m16n8k32", "e4m3")
DEFINE_MMA_F16(MmaE4m3Float16, "m16n8k32", "e4m3")
DEFINE_MMA_F32(MmaE5m2, "m16n8k32", "e5m2")
DEFINE_MMA_F16(MmaE5m2Float16, "m16n8k32", "e5m2")
#endif

// A warp to a tile.
template <class Instruction>
__global__ void by_mma(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *out) {
    constexpr int words = Instruction::words, steps = words / 4;
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    a += blockIdx.x * 16 * words;
    b += blockIdx.x * 8 * words;
    c += blockIdx.x * 128;
    out += blockIdx.x * 128;
    uint32_t left[4], right[2], held[4];
    for (int step = 0; step < steps; ++step) {
        left[2 * step] = a[g * words + t + 4 * step];
        left[2 * step + 1] = a[(g + 8) * words + t + 4 * step];
        right[step] = b[g * words + t + 4 * step];
    }
    for (int i = 0; i < 4; ++i) held[i] = c[place(i, g, t)];
    if (Instruction::output == FLOAT16) {
        uint32_t packed[2] = {pack(held[0], held[1]), pack(held[2], held[3])};
        Instruction::run(packed, left, right);
        for (int i = 0; i < 4; ++i) held[i] = packed[i / 2] >> 16 * (i % 2) & 0xffff;
    } else {
        Instruction::run(held, left, right);
    }
    for (int i = 0; i < 4; ++i) out[place(i, g, t)] = held[i];
}

// wgmma takes A from registers and B from shared memory, K-major without swizzling: two core
// matrices of 8 columns by 16 bytes, one after the other.  Only sm_90a has it.
#ifdef WITH_WGMMA
#define WGMMA_BODY(INSTRUCTION, REGISTERS, TAIL)                                                   \
    "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned." \
    INSTRUCTION " " REGISTERS ", p, 1, 1" TAIL                                                     \
    "; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; }"
#define DEFINE_WGMMA_F32(NAME, SHAPE, TYPE, TAIL)                                                  \
    struct NAME {                                                                                  \
        static constexpr int words = 8, rows = 64;                                                 \
        static constexpr Output output = FLOAT32;                                                  \
        __device__ static void run(uint32_t *d, const uint32_t *a, uint64_t b) {                   \
            asm volatile(WGMMA_BODY(SHAPE ".f32." TYPE "." TYPE,                                   \
                                    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, %8", TAIL)                \
                         : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                          \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                      \
                         : "memory");                                                              \
        }                                                                                          \
    };
#define DEFINE_WGMMA_F16(NAME, SHAPE, TYPE, TAIL)                                                  \
    struct NAME {                                                                                  \
        static constexpr int words = 8, rows = 64;                                                 \
        static constexpr Output output = FLOAT16;                                                  \
        __device__ static void run(uint32_t *d, const uint32_t *a, uint64_t b) {                   \
            asm volatile(WGMMA_BODY(SHAPE ".f16." TYPE "." TYPE, "{%0, %1}, {%2, %3, %4, %5}, %6", \
                                    TAIL)                                                          \
                         : "+r"(d[0]), "+r"(d[1])                                                  \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                      \
                         : "memory");                                                              \
        }                                                                                          \
    };

DEFINE_WGMMA_F32(WgmmaFloat16, "m64n8k16", "f16", ", 0")
DEFINE_WGMMA_F16(WgmmaFloat16Float16, "m64n8k16", "f16", ", 0")
DEFINE_WGMMA_F32(WgmmaBfloat16, "m64n8k16", "bf16", ", 0")
DEFINE_WGMMA_F32(WgmmaTf32, "m64n8k8", "tf32", "")
DEFINE_WGMMA_F32(WgmmaE4m3, "m64n8k32", "e4m3", "")
DEFINE_WGMMA_F16(WgmmaE4m3Float16, "m64n8k32", "e4m3", "")
DEFINE_WGMMA_F32(WgmmaE5m2, "m64n8k32", "e5m2", "")
DEFINE_WGMMA_F16(WgmmaE5m2Float16, "m64n8k32", "e5m2", "")

// A warp group to a tile.
template <class Instruction>
__global__ void by_wgmma(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *out) {
    __shared__ alignas(128) uint32_t columns[64];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = 16 * warp + g;
    a += blockIdx.x * 64 * 8;
    b += blockIdx.x * 64;
    c += blockIdx.x * 512;
    out += blockIdx.x * 512;
    if (threadIdx.x < 64) {
        const int column = threadIdx.x / 8, word = threadIdx.x % 8;
        columns[word / 4 * 32 + column * 4 + word % 4] = b[threadIdx.x];
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const uint32_t left[4] = {a[row * 8 + t], a[(row + 8) * 8 + t], a[row * 8 + t + 4],
                              a[(row + 8) * 8 + t + 4]};
    // Address, and both distances between core matrices (there is one step of the first kind only),
    // in units of 16 bytes.
    const uint64_t address = __cvta_generic_to_shared(columns);
    const uint64_t matrix = (address & 0x3ffff) >> 4 | uint64_t(8) << 16 | uint64_t(8) << 32;
    uint32_t held[4];
    for (int i = 0; i < 4; ++i) held[i] = c[place(i, row, t)];
    if (Instruction::output == FLOAT16) {
        uint32_t packed[2] = {pack(held[0], held[1]), pack(held[2], held[3])};
        Instruction::run(packed, left, matrix);
        for (int i = 0; i < 4; ++i) held[i] = packed[i / 2] >> 16 * (i % 2) & 0xffff;
    } else {
        Instruction::run(held, left, matrix);
    }
    for (int i = 0; i < 4; ++i) out[place(i, row, t)] = held[i];
}
#endif

typedef void (*Kernel)(const uint32_t *, const uint32_t *, const uint32_t *, uint32_t *);

struct Entry {
    const char *name;
    Kernel kernel;
    int words, rows;
};

#define MMA(NAME, TYPE) {NAME, by_mma<TYPE>, TYPE::words, TYPE::rows}
#define WGMMA(NAME, TYPE) {NAME, by_wgmma<TYPE>, TYPE::words, TYPE::rows}

// The names of fpemu.devices, without the architecture.
static const Entry ENTRIES[] = {
    MMA("mma.float16", MmaFloat16),
    MMA("mma.float16.float16", MmaFloat16Float16),
    MMA("mma.bfloat16", MmaBfloat16),
    MMA("mma.tf32", MmaTf32),
    MMA("mma-k8.float16", MmaK8Float16),
    MMA("mma-k8.bfloat16", MmaK8Bfloat16),
    MMA("mma-k4.tf32", MmaK4Tf32),
#ifdef WITH_FP8
    MMA("mma.e4m3", MmaE4m3),
    MMA("mma.e4m3.float16", MmaE4m3Float16),
    MMA("mma.e5m2", MmaE5m2),
    MMA("mma.e5m2.float16", MmaE5m2Float16),
#endif
#ifdef WITH_WGMMA
    WGMMA("wgmma.float16", WgmmaFloat16),
    WGMMA("wgmma.float16.float16", WgmmaFloat16Float16),
    WGMMA("wgmma.bfloat16", WgmmaBfloat16),
    WGMMA("wgmma.tf32", WgmmaTf32),
    WGMMA("wgmma.e4m3", WgmmaE4m3),
    WGMMA("wgmma.e4m3.float16", WgmmaE4m3Float16),
    WGMMA("wgmma.e5m2", WgmmaE5m2),
    WGMMA("wgmma.e5m2.float16", WgmmaE5m2Float16),
#endif
};

static void check(cudaError_t status) {
    if (status == cudaSuccess) return;
    fprintf(stderr, "check_gpu: %s\n", cudaGetErrorString(status));
    exit(1);
}

static uint32_t *on_device(size_t words) {
    uint32_t *memory;
    check(cudaMalloc(&memory, 4 * words));
    std::vector<uint32_t> host(words);
    if (fread(host.data(), 4, words, stdin) != words) {
        fprintf(stderr, "check_gpu: the operands end too early\n");
        exit(1);
    }
    check(cudaMemcpy(memory, host.data(), 4 * words, cudaMemcpyHostToDevice));
    return memory;
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: check_gpu INSTRUCTION TILES < operands; instructions:\n");
        for (const Entry &each : ENTRIES) fprintf(stderr, "%s\n", each.name);
        return 2;
    }
    const long tiles = atol(arguments[2]);
    for (const Entry &each : ENTRIES) {
        if (strcmp(each.name, arguments[1])) continue;
        const size_t results = size_t(tiles) * each.rows * 8;
        uint32_t *a = on_device(size_t(tiles) * each.rows * each.words);
        uint32_t *b = on_device(size_t(tiles) * 8 * each.words);
        uint32_t *c = on_device(results);
        uint32_t *out;
        check(cudaMalloc(&out, 4 * results));
        each.kernel<<<tiles, each.rows * 2>>>(a, b, c, out);
        check(cudaGetLastError());
        check(cudaDeviceSynchronize());
        std::vector<uint32_t> host(results);
        check(cudaMemcpy(host.data(), out, 4 * results, cudaMemcpyDeviceToHost));
        for (uint32_t word : host) printf("%08x\n", word);
        return 0;
    }
    fprintf(stderr, "check_gpu: no instruction %s\n", arguments[1]);
    return 2;
}
