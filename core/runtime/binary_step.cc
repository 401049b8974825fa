// Binary convolution with 1 to 3 branches.
//
// The kernels count disagreeing bits over the rows of taps inside the map, reading zero bits left and right of it. With
// `pop` that count, `bad` the taps that read such zeros, and p_t(o) the number of ones in tap t of the weights of output
// o (what a zero input disagrees with):
//     d = sum over good taps of (I - 2 popcount) = n_good I - 2 (pop - sum over bad t of p_t(o)) = base(o) - 2 pop,
//     base(o) = n_good I + 2 sum over bad t of p_t(o).
// `base` depends on the pixel only through which taps are bad, which is the same for all pixels of a border class; one
// table row per class is made at load. All of it is exact: |d| <= kh kw I <= 2^24, so float(d) is exact too.
#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>
#include <variant>

#include "runtime/epilogue_step.h"

namespace bcdnet {
namespace {

// Pixels of one work item: enough that a panel of weights is used often once it is in the first-level cache, few enough
// that the counts stay there too.
constexpr int kItemPixels = 56;
constexpr int kTilePixels = 8;  // items are a multiple of what tiles take, so that few pixels are left over
constexpr int kExpandRows = 8;

using Taps = std::pair<int, int>;  // the good ones, [first, last)

/// Numbers the distinct tap ranges of one axis. `classes`: for each output position.
std::vector<Taps> AxisClasses(int in, int out, int kernel, int stride, int pad, std::vector<uint32_t>& classes) {
  std::vector<Taps> taps;
  std::map<Taps, uint32_t> numbers;
  for (int o = 0; o < out; ++o) {
    const int start = o * stride - pad;
    const Taps range{std::max(0, -start), std::min(kernel, in - start)};
    const auto [it, added] = numbers.emplace(range, static_cast<uint32_t>(taps.size()));
    if (added) taps.push_back(range);
    classes.push_back(it->second);
  }
  return taps;
}

/// Of type T, which has all of them exactly.
template <class T>
AlignedVector<T> BorderBases(const ConvShape& s, const uint32_t* weights, const std::vector<Taps>& rows,
                                   const std::vector<Taps>& columns) {
  const int padded = PadChannels(s.out_c), words = s.words(), taps = s.k_h * s.k_w;
  AlignedVector<T> bases(rows.size() * columns.size() * padded, 0);
  // ones[y][x]: those of the taps above y and left of x, so that each class takes a few steps whatever the kernel's
  // size.
  const int width = s.k_w + 1;
  std::vector<int32_t> ones(static_cast<size_t>(s.k_h + 1) * width, 0);
  const auto within = [&](Taps y, Taps x) {
    const int32_t* top = &ones[static_cast<size_t>(y.first) * width];
    const int32_t* bottom = &ones[static_cast<size_t>(y.second) * width];
    return bottom[x.second] - bottom[x.first] - top[x.second] + top[x.first];
  };
  for (int o = 0; o < s.out_c; ++o) {
    for (int tap = 0; tap < taps; ++tap) {
      int32_t* sum = &ones[static_cast<size_t>(tap / s.k_w + 1) * width + tap % s.k_w + 1];
      *sum = sum[-1] + sum[-width] - sum[-width - 1];
      for (int w = 0; w < words; ++w) *sum += std::popcount(weights[(static_cast<size_t>(o) * taps + tap) * words + w]);
    }
    for (size_t r = 0; r < rows.size(); ++r) {
      const int32_t seen = within(rows[r], {0, s.k_w});
      for (size_t c = 0; c < columns.size(); ++c) {
        const int good = (rows[r].second - rows[r].first) * (columns[c].second - columns[c].first);
        const int32_t base = good * s.in_c + 2 * (seen - within(rows[r], columns[c]));
        bases[(r * columns.size() + c) * padded + o] = static_cast<T>(base);
      }
    }
  }
  return bases;
}

/// Channel quarters read from neighbours: which words' bits come from which quarter never changes, only the pixel does.
class ShiftPlan {
 public:
  ShiftPlan(Shift shift, const Buffer& in) : in_(in), words_(BitWords(in.channels)), masks_(4 * words_, 0) {
    dy_ = shift == Shift::kShort ? 1 : in.height / 2;
    dx_ = shift == Shift::kShort ? 1 : in.width / 2;
    for (int c = 0; c < in.channels; ++c) {
      const int quarter = static_cast<int>(4 * static_cast<int64_t>(c) / in.channels);
      masks_[quarter * words_ + c / 32] |= 1u << (c % 32);
    }
  }

  void Rows(const uint32_t* bits, uint32_t* out, int row_begin, int row_end) const {
    const int h = in_.height, w = in_.width;
    const auto pixel = [&](int y, int x) { return bits + (static_cast<size_t>(y) * w + x) * words_; };
    const uint32_t *m0 = &masks_[0], *m1 = m0 + words_, *m2 = m1 + words_, *m3 = m2 + words_;
    const int dy = dy_ % h, dx = dx_ % w;
    for (int y = row_begin; y < row_end; ++y) {
      const int up = y >= dy ? y - dy : y - dy + h, down = y + dy < h ? y + dy : y + dy - h;
      for (int x = 0; x < w; ++x) {
        const uint32_t* q0 = pixel(up, x);
        const uint32_t* q1 = pixel(down, x);
        const uint32_t* q2 = pixel(y, x >= dx ? x - dx : x - dx + w);
        const uint32_t* q3 = pixel(y, x + dx < w ? x + dx : x + dx - w);
        uint32_t* to = out + (static_cast<size_t>(y) * w + x) * words_;
        for (int i = 0; i < words_; ++i) to[i] = (q0[i] & m0[i]) | (q1[i] & m1[i]) | (q2[i] & m2[i]) | (q3[i] & m3[i]);
      }
    }
  }

 private:
  Buffer in_;
  int words_, dy_, dx_;
  std::vector<uint32_t> masks_;  // [quarter][word]
};

class BinaryStep final : public Step {
 public:
  BinaryStep(const BinaryConv2dOp& op, const ConvShape& shape, const StepContext& context)
      : shape_(shape),
        kernels_(context.kernels),
        algorithm_(Choose(context, shape)),
        input_(context.places[op.input]),
        chunks_(Items(shape, op.epilogue.map && context.places[*op.epilogue.map].means)),
        block_(algorithm_.block_channels(shape)),
        blocks_((PadChannels(shape.out_c) + block_ - 1) / block_),
        epilogue_(op.epilogue, shape.out_w, shape.out_c, context) {
    std::vector<uint32_t> row_class, column_class;
    const std::vector<Taps> rows =
        AxisClasses(shape.in_h, shape.out_h, shape.k_h, shape.stride_h, shape.pad_h, row_class);
    const std::vector<Taps> columns =
        AxisClasses(shape.in_w, shape.out_w, shape.k_w, shape.stride_w, shape.pad_w, column_class);
    border_.reserve(shape.pixels());
    for (const uint32_t row : row_class) {
      for (const uint32_t column : column_class) {
        border_.push_back((row * static_cast<uint32_t>(columns.size()) + column) * PadChannels(shape.out_c));
      }
    }
    for (const Branch& branch : op.branches) {
      BranchData& data = branches_.emplace_back();
      data.weights.resize(algorithm_.weight_bytes(shape));
      algorithm_.pack_weights(shape, branch.weight.data, data.weights.data());
      epilogue_.Set(kScale + static_cast<int>(branches_.size()) - 1, branch.scale);
      if (algorithm_.sum_bytes == sizeof(uint16_t)) {
        data.base = BorderBases<float>(shape, branch.weight.data, rows, columns);
      } else {
        data.base = BorderBases<int32_t>(shape, branch.weight.data, rows, columns);
      }
      if (branch.shift != Shift::kNone) data.shift.emplace(branch.shift, input_.buffer);
    }
    index_bytes_ = RoundUp(algorithm_.index_bytes(shape));
    shifted_bytes_ = RoundUp(input_.bytes());
    const uint64_t most = std::min(chunks_.longest(), kItemPixels);
    sums_bytes_ = RoundUp(most * block_ * algorithm_.sum_bytes);
  }

  uint64_t scratch_bytes() const override { return branches_.size() * (index_bytes_ + shifted_bytes_); }
  uint64_t thread_scratch_bytes() const override { return branches_.size() * sums_bytes_; }
  std::string algorithm() const override { return algorithm_.name; }

  void Run(const Frame& frame) const override {
    const int rows = shape_.padded_h(), groups = (rows + kExpandRows - 1) / kExpandRows;
    const int branches = static_cast<int>(branches_.size());
    ForEach(frame.team, branches * groups, [&](int item, int) {
      const int b = item / groups, begin = item % groups * kExpandRows, end = std::min(begin + kExpandRows, rows);
      const uint32_t* bits = frame.words(input_);
      if (branches_[b].shift) {
        uint32_t* shifted = reinterpret_cast<uint32_t*>(frame.scratch + branches * index_bytes_ + b * shifted_bytes_);
        branches_[b].shift->Rows(bits, shifted, begin, end);
        bits = shifted;
      }
      algorithm_.expand(shape_, bits, frame.scratch + b * index_bytes_, begin, end);
    });
    const EpilogueArgs common = Bind(frame);
    const int threads = frame.team != nullptr ? frame.team->threads() : 1;
    ForEach(frame.team, blocks_ * chunks_.count, [&](int item, int thread) {
      const auto [block, chunk] = Part(item, threads);
      EpilogueArgs args = common;
      args.channel_begin = block * block_;
      args.channel_end = std::min(args.channel_begin + block_, PadChannels(shape_.out_c));
      std::byte* scratch = frame.scratch_of(thread);
      const int end = chunks_.begin(chunk + 1);
      for (int begin = chunks_.begin(chunk); begin < end; begin += kItemPixels) {
        args.pixel_begin = begin;
        args.pixel_end = std::min(begin + kItemPixels, end);
        for (int b = 0; b < branches; ++b) {
          std::byte* sums = scratch + b * sums_bytes_;
          algorithm_.accumulate(shape_, branches_[b].weights.data(), frame.scratch + b * index_bytes_, block,
                                args.pixel_begin, args.pixel_end, sums);
          args.counts[b] = sums;
        }
        kernels_.epilogue(args);
      }
    });
  }

 private:
  struct BranchData {
    AlignedVector<std::byte> weights;
    std::variant<AlignedVector<float>, AlignedVector<int32_t>> base;  // as EpilogueArgs wants them
    std::optional<ShiftPlan> shift;
  };

  struct BlockAndChunk {
    int block, chunk;
  };

  /// The items in an order that gives each thread's stretch pixels of its own, as many as there are: channels of one
  /// pixel share cache lines. Within a thread's pixels it goes block by block, so that weights stay in the cache.
  BlockAndChunk Part(int item, int threads) const {
    const int64_t chunks = chunks_.count, shares = std::min<int64_t>(threads, chunks);
    const int64_t share = ((item / blocks_ + 1) * shares - 1) / chunks;
    const int begin = static_cast<int>(chunks * share / shares);
    const int size = static_cast<int>(chunks * (share + 1) / shares) - begin;
    const int place = item - blocks_ * begin;
    return {place / size, begin + place % size};
  }

  /// With `means` an item has both rows of every window it has.
  static Chunks Items(const ConvShape& shape, bool means) {
    const int unit = means ? 2 * shape.out_w : kTilePixels;
    return Chunks(shape.pixels(), std::max(kItemPixels / unit, 1) * unit, unit);
  }

  /// The one that is wanted, if it can, or else the first that can.
  static const BinaryAlgorithm& Choose(const StepContext& context, const ConvShape& shape) {
    const BinaryAlgorithm* first = nullptr;
    for (const BinaryAlgorithm& algorithm : context.kernels.algorithms) {
      if (!algorithm.supports(shape)) continue;
      if (context.algorithm == nullptr || algorithm.name == *context.algorithm) return algorithm;
      if (first == nullptr) first = &algorithm;
    }
    return *first;
  }

  EpilogueArgs Bind(const Frame& frame) const {
    EpilogueArgs args = epilogue_.Bind(frame);
    args.branches = static_cast<int>(branches_.size());
    for (int b = 0; b < args.branches; ++b) {
      args.base[b] = std::visit([](const auto& base) -> const void* { return base.data(); }, branches_[b].base);
    }
    args.border = border_.data();
    args.value_stride = block_;
    args.sum_bytes = algorithm_.sum_bytes;
    return args;
  }

  ConvShape shape_;
  const KernelTable& kernels_;
  const BinaryAlgorithm& algorithm_;
  Place input_;
  Chunks chunks_;
  int block_, blocks_;
  PreparedEpilogue epilogue_;
  std::vector<uint32_t> border_;
  std::vector<BranchData> branches_;
  uint64_t index_bytes_, shifted_bytes_, sums_bytes_;
};

}  // namespace

std::unique_ptr<Step> MakeStep(const BinaryConv2dOp& op, const StepContext& context) {
  const ConvShape s = ShapeOf(context.places[op.input].buffer, op.branches[0].weight.shape, op.stride, op.padding);
  return std::make_unique<BinaryStep>(op, s, context);
}

}  // namespace bcdnet
