// Ops that only move values: unpack, concat, transpose, reshape. Plain loops: they are copies.
#include <algorithm>

#include "runtime/step.h"

namespace bcdnet {
namespace {

constexpr int kItemPixels = 256;

template <class F>
class CopyStep final : public Step {
 public:
  explicit CopyStep(F run) : run_(std::move(run)) {}
  void Run(const Frame& frame) const override { run_(frame); }

 private:
  F run_;
};

template <class F>
std::unique_ptr<Step> MakeCopyStep(F run) {
  return std::make_unique<CopyStep<F>>(std::move(run));
}

/// f(pixel) for all pixels, in items of kItemPixels.
template <class F>
void ForPixels(const Frame& frame, int pixels, const F& f) {
  ForEach(frame.team, (pixels + kItemPixels - 1) / kItemPixels, [&](int item, int) {
    for (int p = item * kItemPixels; p < std::min((item + 1) * kItemPixels, pixels); ++p) f(p);
  });
}

}  // namespace

std::unique_ptr<Step> MakeStep(const UnpackOp& op, const StepContext& context) {
  return MakeCopyStep([in = context.places[op.input], out = context.places[op.output]](const Frame& frame) {
    ForPixels(frame, in.pixels(), [&](int p) {
      const uint32_t* words = frame.words(in) + static_cast<size_t>(p) * in.stride;
      float* to = frame.floats(out) + static_cast<size_t>(p) * out.stride;
      for (int c = 0; c < in.buffer.channels; ++c) to[c] = (words[c / 32] >> (c % 32) & 1) != 0 ? 1.0f : -1.0f;
    });
  });
}

std::unique_ptr<Step> MakeStep(const ConcatOp& op, const StepContext& context) {
  std::vector<Place> inputs;
  for (int id : op.inputs) inputs.push_back(context.places[id]);
  return MakeCopyStep([inputs = std::move(inputs), out = context.places[op.output]](const Frame& frame) {
    ForPixels(frame, out.pixels(), [&](int p) {
      float* to = frame.floats(out) + static_cast<size_t>(p) * out.stride;
      for (const Place& in : inputs) {
        to = std::copy_n(frame.floats(in) + static_cast<size_t>(p) * in.stride, in.buffer.channels, to);
      }
    });
  });
}

std::unique_ptr<Step> MakeStep(const TransposeOp& op, const StepContext& context) {
  // Output pixel p, channel c is element (c, p) of the input as a matrix; an image is a C x (H W) matrix without
  // padding.
  return MakeCopyStep([in = context.places[op.input], out = context.places[op.output]](const Frame& frame) {
    const bool image = in.buffer.kind == Kind::kImage;
    const float* from = image ? frame.image : frame.floats(in);
    const size_t row = image ? static_cast<size_t>(in.pixels()) : static_cast<size_t>(in.stride);
    ForPixels(frame, out.pixels(), [&](int p) {
      float* to = frame.floats(out) + static_cast<size_t>(p) * out.stride;
      for (int c = 0; c < out.buffer.channels; ++c) to[c] = from[c * row + p];
    });
  });
}

std::unique_ptr<Step> MakeStep(const ReshapeOp& op, const StepContext& context) {
  return MakeCopyStep([in = context.places[op.input], out = context.places[op.output]](const Frame& frame) {
    const float* from = frame.floats(in);
    float* to = frame.floats(out);
    const int elements = in.pixels() * in.buffer.channels;
    // The longest run of elements that is contiguous in both: up to the next end of a pixel in either.
    for (int e = 0; e < elements;) {
      const int ci = e % in.buffer.channels, co = e % out.buffer.channels;
      const int run = std::min(in.buffer.channels - ci, out.buffer.channels - co);
      std::copy_n(from + static_cast<size_t>(e / in.buffer.channels) * in.stride + ci, run,
                  to + static_cast<size_t>(e / out.buffer.channels) * out.stride + co);
      e += run;
    }
  });
}

}  // namespace bcdnet
