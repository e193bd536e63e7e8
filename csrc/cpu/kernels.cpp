// Compiled once per instruction set: WF_ISA names the namespace and the vec_*.h file.
//
// No standard library template may be instantiated here: the linker could pick the copy built
// with AVX-512 for the whole program.
#include "cpu/kernels.h"

#include <cstring>

#define WF_STRING_(a) #a
#define WF_STRING(a) WF_STRING_(a)
#include WF_VEC_HEADER

#define WF_ALWAYS static inline __attribute__((always_inline))

// The arithmetic itself, in terms of those vector operations.
#include "cpu/kernel_elementwise.h"
#include "cpu/kernel_products.h"
// deals streams as the products do
#include "cpu/kernel_int8.h"
// needs the weight formats of the products
#include "cpu/kernel_sparse.h"
// needs the weight formats of the products
#include "cpu/kernel_probes.h"

namespace wavernn_fast::cpu::WF_ISA {

extern const KernelTable kTable;
const KernelTable kTable = {
    .name = WF_STRING(WF_ISA),
    .panel_blocks = kPanelBlocks,
    .matmul_fp32 = matmul<Fp32>,
    .matmul_fp16 = matmul<Fp16>,
    .matmul_bf16 = matmul<Bf16>,
    .matmul_int8 = matmul_int8<2>,
    .matmul_int8_fast = matmul_int8<1>,
    .sparse_lists = kSparseLists,
    .sparse =
        {
            {nullptr, sparse<Fp32, Rows16>, sparse<Fp32, Tile4x4>, nullptr, sparse<Fp32, Single>},
            {nullptr, sparse<Fp16, Rows16>, sparse<Fp16, Tile4x4>, nullptr, sparse<Fp16, Single>},
            {nullptr, sparse<Bf16, Rows16>, sparse<Bf16, Tile4x4>, nullptr, sparse<Bf16, Single>},
            {nullptr, sparse_int8<2, Int16x4>, sparse_int8<2, Int4x4>, sparse_int8<2, Int8x4>,
             nullptr},
            {nullptr, sparse_int8<1, Int16x4>, sparse_int8<1, Int4x4>, sparse_int8<1, Int8x4>,
             nullptr},
        },
    .quantize = quantize,
    .gru = gru,
    .plain_gru = plain_gru,
    .input_layer = input_layer,
    .input_layer_of = input_layer_of,
    .relu = relu,
    .add = add_vectors,
    .categorical = categorical,
    .probe_read = probe_read,
    .probe_fma = probe_fma,
    .probe_int8 = probe_int8,
    .probe_fp16 = probe_widen<Fp16>,
    .probe_bf16 = probe_widen<Bf16>,
};

}  // namespace wavernn_fast::cpu::WF_ISA
