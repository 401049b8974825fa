// Plain loops for every kernel: the oracle of the tests, and the target "SCALAR" that runs on any machine.
#pragma once

#include "kernels/kernels.h"

namespace bcdnet::reference {

BinaryAlgorithm PlainAlgorithm();
void Epilogue(const EpilogueArgs& args);

size_t Conv2dWeightFloats(const ConvShape& shape, int groups);
void Conv2dPackWeights(const ConvShape& shape, int groups, const float* weight, float* packed);
void Conv2d(const Conv2dArgs& args, int channel_begin, int channel_end, int pixel_begin, int pixel_end, float* values,
            int value_stride);

void Pool(const PoolArgs& args, int row_begin, int row_end);
void GlobalAvgPool(const float* input, int pixels, int stride, int channel_begin, int channel_end, float* out);

size_t LinearWeightFloats(int inputs, int outputs);
void LinearPackWeights(int inputs, int outputs, const float* weight, float* packed);
void Linear(const float* input, int inputs, const float* packed, const float* bias, int begin, int end, float* out);

KernelTable Table();

}  // namespace bcdnet::reference
