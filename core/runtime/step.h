// One op made ready to run: its weights laid out for the kernels, its buffers resolved to places in the arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bcdnet/program.h"
#include "kernels/chunks.h"
#include "kernels/kernels.h"
#include "runtime/memory.h"
#include "runtime/team.h"

namespace bcdnet {

/// Where a buffer lives. `stride`: floats per pixel (maps, vectors) or words per pixel (bits).
struct Place {
  Buffer buffer;  // as it is stored
  uint64_t offset = 0;
  int stride = 0;
  bool means = false;  // the means of the map's windows of 2 x 2 instead of it, of which nothing else is read
  uint64_t whole = 0;  // where in Frame::whole_maps such a map is
  int pixels() const { return buffer.height * buffer.width; }
  uint64_t bytes() const { return static_cast<uint64_t>(pixels()) * stride * 4; }
};

/// Memory of one run.
struct Frame {
  const float* image;
  std::byte* arena;
  std::byte* scratch;         // shared by the threads of the run
  std::byte* thread_scratch;  // thread_scratch_bytes for each thread
  uint64_t thread_scratch_bytes;
  Team* team;  // null: the caller's thread only
  std::byte* whole_maps;  // null: nobody wants those whose means are stored

  float* floats(const Place& place) const { return reinterpret_cast<float*>(arena + place.offset); }
  uint32_t* words(const Place& place) const { return reinterpret_cast<uint32_t*>(arena + place.offset); }
  std::byte* scratch_of(int thread) const { return thread_scratch + thread * thread_scratch_bytes; }
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void Run(const Frame& frame) const = 0;
  virtual uint64_t scratch_bytes() const { return 0; }
  virtual uint64_t thread_scratch_bytes() const { return 0; }
  virtual std::string algorithm() const { return {}; }
};

/// What a step is built with.
struct StepContext {
  const KernelTable& kernels;
  const std::vector<Place>& places;
  const std::string* algorithm;  // null: the fastest
};

std::unique_ptr<Step> MakeStep(const Conv2dOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const BinaryConv2dOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const ElementwiseOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const UnpackOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const PoolOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const GlobalAvgPoolOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const LinearOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const ConcatOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const TransposeOp& op, const StepContext& context);
std::unique_ptr<Step> MakeStep(const ReshapeOp& op, const StepContext& context);

/// Sizes of a convolution of `in` with `weight` [O][kh][kw][...], which the program's validation has found sound.
inline ConvShape ShapeOf(const Buffer& in, const std::vector<int64_t>& weight, Pair stride, Pair padding) {
  ConvShape s{};
  s.in_h = in.height;
  s.in_w = in.width;
  s.in_c = in.channels;
  s.out_c = static_cast<int>(weight[0]);
  s.k_h = static_cast<int>(weight[1]);
  s.k_w = static_cast<int>(weight[2]);
  s.stride_h = stride.y;
  s.stride_w = stride.x;
  s.pad_h = padding.y;
  s.pad_w = padding.x;
  s.out_h = (s.padded_h() - s.k_h) / s.stride_h + 1;
  s.out_w = (s.padded_w() - s.k_w) / s.stride_w + 1;
  return s;
}

/// A copy padded with zeros to PadChannels(size); empty if absent.
AlignedVector<float> PadParameter(const Floats& parameter);

}  // namespace bcdnet
