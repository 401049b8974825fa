// Real-valued convolution, elementwise ops, pooling, the linear layer.
#include <algorithm>

#include "runtime/epilogue_step.h"

namespace bcdnet {
namespace {

constexpr int kItemPixels = 56;
constexpr int kItemChannels = 64;
constexpr int kItemRows = 4;

class Conv2dStep final : public Step {
 public:
  Conv2dStep(const Conv2dOp& op, const ConvShape& shape, const StepContext& context)
      : shape_(shape),
        groups_(op.groups),
        kernels_(context.kernels),
        input_(context.places[op.input]),
        chunks_(shape.pixels(), kItemPixels),
        blocks_((PadChannels(shape.out_c) + kItemChannels - 1) / kItemChannels),
        weight_(kernels_.conv2d_weight_floats(shape, op.groups)),
        epilogue_(op.epilogue, shape.out_w, shape.out_c, context) {
    epilogue_.Set(kConvBias, op.bias);
    kernels_.conv2d_pack_weights(shape, groups_, op.weight.data, weight_.data());
  }

  uint64_t thread_scratch_bytes() const override { return RoundUp(sizeof(float) * chunks_.longest() * kItemChannels); }

  void Run(const Frame& frame) const override {
    const int64_t h = shape_.in_h, w = shape_.in_w;
    Conv2dArgs conv{shape_, groups_, frame.floats(input_), w * input_.stride, input_.stride, 1, weight_.data()};
    if (input_.buffer.kind == Kind::kImage) conv = {shape_, groups_, frame.image, w, 1, h * w, weight_.data()};
    EpilogueArgs common = epilogue_.Bind(frame);
    common.value_stride = kItemChannels;
    ForEach(frame.team, blocks_ * chunks_.count, [&](int item, int thread) {
      EpilogueArgs args = common;
      const int chunk = item / blocks_, block = item % blocks_;
      args.pixel_begin = chunks_.begin(chunk);
      args.pixel_end = chunks_.begin(chunk + 1);
      args.channel_begin = block * kItemChannels;
      args.channel_end = std::min(args.channel_begin + kItemChannels, PadChannels(shape_.out_c));
      float* values = reinterpret_cast<float*>(frame.scratch_of(thread));
      kernels_.conv2d(conv, args.channel_begin, args.channel_end, args.pixel_begin, args.pixel_end, values,
                      kItemChannels);
      args.values = values;
      kernels_.epilogue(args);
    });
  }

 private:
  ConvShape shape_;
  int groups_;
  const KernelTable& kernels_;
  Place input_;
  Chunks chunks_;
  int blocks_;
  AlignedVector<float> weight_;
  PreparedEpilogue epilogue_;
};

class ElementwiseStep final : public Step {
 public:
  ElementwiseStep(const ElementwiseOp& op, const StepContext& context)
      : kernels_(context.kernels),
        input_(context.places[op.input]),
        chunks_(input_.pixels(), kItemPixels),
        epilogue_(op.epilogue, input_.buffer.width, input_.buffer.channels, context) {}

  void Run(const Frame& frame) const override {
    EpilogueArgs common = epilogue_.Bind(frame);
    common.value_stride = input_.stride;
    common.channel_begin = 0;
    common.channel_end = PadChannels(input_.buffer.channels);
    ForEach(frame.team, chunks_.count, [&](int chunk, int) {
      EpilogueArgs args = common;
      args.pixel_begin = chunks_.begin(chunk);
      args.pixel_end = chunks_.begin(chunk + 1);
      args.values = frame.floats(input_) + static_cast<size_t>(args.pixel_begin) * input_.stride;
      kernels_.epilogue(args);
    });
  }

 private:
  const KernelTable& kernels_;
  Place input_;
  Chunks chunks_;
  PreparedEpilogue epilogue_;
};

class PoolStep final : public Step {
 public:
  PoolStep(const PoolOp& op, const StepContext& context)
      : kernels_(context.kernels), input_(context.places[op.input]), output_(context.places[op.output]), op_(op) {}

  void Run(const Frame& frame) const override {
    const Buffer &in = input_.buffer, &out = output_.buffer;
    const PoolArgs args{frame.floats(input_),
                        frame.floats(output_),
                        in.height,
                        in.width,
                        out.height,
                        out.width,
                        input_.stride,
                        op_.kernel.y,
                        op_.kernel.x,
                        op_.stride.y,
                        op_.stride.x,
                        op_.padding.y,
                        op_.padding.x,
                        op_.maximum,
                        op_.count_include_pad};
    ForEach(frame.team, (out.height + kItemRows - 1) / kItemRows, [&](int item, int) {
      kernels_.pool(args, item * kItemRows, std::min((item + 1) * kItemRows, out.height));
    });
  }

 private:
  const KernelTable& kernels_;
  Place input_, output_;
  PoolOp op_;
};

class GlobalAvgPoolStep final : public Step {
 public:
  GlobalAvgPoolStep(const GlobalAvgPoolOp& op, const StepContext& context)
      : kernels_(context.kernels), input_(context.places[op.input]), output_(context.places[op.output]) {}

  void Run(const Frame& frame) const override {
    const int channels = PadChannels(input_.buffer.channels);
    ForEach(frame.team, (channels + kItemChannels - 1) / kItemChannels, [&](int item, int) {
      kernels_.global_avg_pool(frame.floats(input_), input_.pixels(), input_.stride, item * kItemChannels,
                               std::min((item + 1) * kItemChannels, channels), frame.floats(output_));
    });
  }

 private:
  const KernelTable& kernels_;
  Place input_, output_;
};

class LinearStep final : public Step {
 public:
  LinearStep(const LinearOp& op, const StepContext& context)
      : kernels_(context.kernels),
        input_(context.places[op.input]),
        output_(context.places[op.output]),
        weight_(kernels_.linear_weight_floats(input_.buffer.channels, output_.buffer.channels)),
        bias_(PadParameter(op.bias)) {
    kernels_.linear_pack_weights(input_.buffer.channels, output_.buffer.channels, op.weight.data, weight_.data());
  }

  void Run(const Frame& frame) const override {
    const int outputs = PadChannels(output_.buffer.channels);
    ForEach(frame.team, (outputs + kItemChannels - 1) / kItemChannels, [&](int item, int) {
      kernels_.linear(frame.floats(input_), input_.buffer.channels, weight_.data(),
                      bias_.empty() ? nullptr : bias_.data(), item * kItemChannels,
                      std::min((item + 1) * kItemChannels, outputs), frame.floats(output_));
    });
  }

 private:
  const KernelTable& kernels_;
  Place input_, output_;
  AlignedVector<float> weight_, bias_;
};

}  // namespace

std::unique_ptr<Step> MakeStep(const Conv2dOp& op, const StepContext& context) {
  const ConvShape s = ShapeOf(context.places[op.input].buffer, op.weight.shape, op.stride, op.padding);
  return std::make_unique<Conv2dStep>(op, s, context);
}
std::unique_ptr<Step> MakeStep(const ElementwiseOp& op, const StepContext& context) {
  return std::make_unique<ElementwiseStep>(op, context);
}
std::unique_ptr<Step> MakeStep(const PoolOp& op, const StepContext& context) {
  return std::make_unique<PoolStep>(op, context);
}
std::unique_ptr<Step> MakeStep(const GlobalAvgPoolOp& op, const StepContext& context) {
  return std::make_unique<GlobalAvgPoolStep>(op, context);
}
std::unique_ptr<Step> MakeStep(const LinearOp& op, const StepContext& context) {
  return std::make_unique<LinearStep>(op, context);
}

}  // namespace bcdnet
