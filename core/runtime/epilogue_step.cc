#include "runtime/epilogue_step.h"

#include <algorithm>

namespace bcdnet {

AlignedVector<float> PadParameter(const Floats& parameter) {
  if (!parameter) return {};
  const int size = static_cast<int>(parameter.shape[0]);
  AlignedVector<float> padded(PadChannels(size), 0.0f);
  std::copy_n(parameter.data, size, padded.begin());
  return padded;
}

namespace {

const float* DataOrNull(const AlignedVector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

PreparedEpilogue::PreparedEpilogue(const Epilogue& e, int out_w, int out_c, const StepContext& context)
    : out_w_(out_w), out_c_(out_c), parameters_(static_cast<size_t>(PadChannels(out_c)) * kParameters) {
  for (int parameter = 0; parameter < kParameters; ++parameter) {
    for (int c = 0; c < PadChannels(out_c); ++c)
      parameters_[ParameterIndex(parameter, c)] = NeutralParameter(parameter);
  }
  Set(kMul, e.mul);
  Set(kAdd, e.add);
  const auto place = [&](int id) { return context.places[id]; };
  if (e.gain) gain_ = place(*e.gain);
  if (e.beta) beta_ = place(*e.beta);
  if (e.shortcut) {
    shortcut_ = place(e.shortcut->buffer);
    duplicate_ = e.shortcut->duplicate;
    avg_pool_ = e.shortcut->avg_pool && !shortcut_->means;
  }
  activation_ = e.prelu.has_value();
  if (e.prelu) {
    Set(kBiasIn, e.prelu->bias_in);
    Set(kSlope, e.prelu->slope);
    Set(kBiasOut, e.prelu->bias_out);
  }
  if (e.map) map_ = place(*e.map);
  for (const BitsOutput& output : e.bits) {
    Bits& bits = bits_.emplace_back(Bits{place(output.buffer), PadParameter(output.bias), std::nullopt});
    if (output.alpha) bits.alpha = place(*output.alpha);
  }
}

void PreparedEpilogue::Set(int parameter, const Floats& values) {
  if (!values) return;
  affine_ |= parameter == kConvBias || parameter == kMul || parameter == kAdd;
  for (int c = 0; c < out_c_; ++c) parameters_[ParameterIndex(parameter, c)] = values.data[c];
}

EpilogueArgs PreparedEpilogue::Bind(const Frame& frame) const {
  EpilogueArgs args{};
  args.out_w = out_w_;
  args.out_c = out_c_;
  if (gain_) args.gain = frame.floats(*gain_);
  if (beta_) args.beta = frame.floats(*beta_);
  args.parameters = parameters_.data();
  args.affine = affine_;
  args.activation = activation_;
  if (shortcut_) {
    args.shortcut = frame.floats(*shortcut_);
    args.shortcut_h = shortcut_->buffer.height;
    args.shortcut_w = shortcut_->buffer.width;
    args.shortcut_stride = shortcut_->stride;
    args.shortcut_channels = shortcut_->buffer.channels;
    args.shortcut_duplicate = duplicate_;
    args.shortcut_avg_pool = avg_pool_;
  }
  if (map_) {
    args.map_stride = map_->stride;
    if (!map_->means) {
      args.map = frame.floats(*map_);
    } else {
      args.means = frame.floats(*map_);
      if (frame.whole_maps != nullptr) args.map = reinterpret_cast<float*>(frame.whole_maps + map_->whole);
    }
  }
  args.bits_count = static_cast<int>(bits_.size());
  for (int b = 0; b < args.bits_count; ++b) {
    args.word_stride = bits_[b].place.stride;
    args.bits[b].words = frame.words(bits_[b].place);
    args.bits[b].bias = DataOrNull(bits_[b].bias);
    args.bits[b].alpha = bits_[b].alpha ? frame.floats(*bits_[b].alpha) : nullptr;
  }
  return args;
}

}  // namespace bcdnet
