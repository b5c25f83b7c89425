// What a block needs between two plans, on the device: the sampler's step, and new rows into the ring of the context.
//
// kernels.ptx beside it is this file compiled; the driver makes machine code of it for whatever GPU is there. After a change:
//     clang -x cl -O2 -target nvptx64-nvidia-cuda -Xclang -target-feature -Xclang +ptx64 -Xclang -target-cpu -Xclang sm_75
//           -S -o kernels.ptx kernels.cl
// The tests compile the same file for the CPU, where INDEX is a loop's variable, and compare it with numpy.

#ifndef INDEX
#define INDEX (__nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() + __nvvm_read_ptx_sreg_tid_x())
#endif

// x becomes weights . (x, v, v without words, noise), value by value: one step of the sampler, or one of two parts of it.
kernel void mix(global float *x, global const float *v, global const float *unled, global const float *noise,
                global const float *weights, int size) {
    int i = INDEX;
    if (i < size)
        x[i] = weights[0] * x[i] + weights[1] * v[i] + weights[2] * unled[i] + weights[3] * noise[i];
}

// New keys or values (heads, new_rows, width) go into the ring (heads, ring_rows, width) from row *first on; heads are those of all layers.
kernel void commit(global float *ring, global const float *rows, global const int *first, int heads, int new_rows, int ring_rows,
                   int width) {
    int i = INDEX, per_head = new_rows * width;
    if (i < heads * per_head)
        ring[(i / per_head * ring_rows + *first) * width + i % per_head] = rows[i];
}
