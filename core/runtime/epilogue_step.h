// The epilogue of an op with its parameters copied and padded.
#pragma once

#include "runtime/step.h"

namespace bcdnet {

class PreparedEpilogue {
 public:
  /// `out_w`, `out_c`: width and channels of the op's value.
  PreparedEpilogue(const Epilogue& epilogue, int out_w, int out_c, const StepContext& context);

  /// Constants that come from the op and not from its epilogue: scales and the convolution's bias.
  void Set(int parameter, const Floats& values);

  /// Everything but the source and the ranges.
  EpilogueArgs Bind(const Frame& frame) const;

 private:
  struct Bits {
    Place place;
    AlignedVector<float> bias;
    std::optional<Place> alpha;
  };
  int out_w_, out_c_;
  std::optional<Place> gain_, beta_, shortcut_, map_;
  bool duplicate_ = false, avg_pool_ = false, affine_ = false, activation_ = false;
  AlignedVector<float> parameters_;
  std::vector<Bits> bits_;
};

}  // namespace bcdnet
