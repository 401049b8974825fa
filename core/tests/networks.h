// Random networks for the C++ tests and the fuzzer; they own the arrays that their programs point to.
#pragma once

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "bcdnet/session.h"

namespace bcdnet::test {

struct Network {
  explicit Network(uint32_t seed) : random(seed) {}

  int Number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

  int AddBuffer(Kind kind, int height, int width, int channels) {
    program.buffers.push_back({kind, height, width, channels});
    return static_cast<int>(program.buffers.size()) - 1;
  }

  Floats MakeFloats(std::vector<int64_t> shape) {
    int64_t size = 1;
    for (int64_t n : shape) size *= n;
    std::vector<float>& data = floats.emplace_back(size);
    for (float& x : data) x = std::normal_distribution<float>()(random);
    return {data.data(), std::move(shape)};
  }

  /// Weights [O][kh][kw][I], packed.
  Words MakeWeights(int outputs, int k_h, int k_w, int inputs) {
    const int words_per_tap = (inputs + 31) / 32;
    std::vector<uint32_t>& data = words.emplace_back(static_cast<size_t>(outputs) * k_h * k_w * words_per_tap);
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = random();
      const int used = inputs - static_cast<int>(i % words_per_tap) * 32;
      if (used < 32) data[i] &= (1u << used) - 1;
    }
    return {data.data(), {outputs, k_h, k_w, words_per_tap}};
  }

  Epilogue Norm(int channels) {
    Epilogue e;
    e.mul = MakeFloats({channels});
    e.add = MakeFloats({channels});
    e.prelu = Prelu{MakeFloats({channels}), MakeFloats({channels}), MakeFloats({channels})};
    return e;
  }

  std::mt19937 random;
  Program program{};
  std::deque<std::vector<float>> floats;
  std::deque<std::vector<uint32_t>> words;
};

/// Image, convolution, binary convolution with shortcut, three shifted branches, pooling, linear: every hot kernel.
inline Network UsualNetwork(uint32_t seed) {
  Network net(seed);
  Program& p = net.program;
  const int h = net.Number(1, 9), w = net.Number(1, 9), c = 4 * net.Number(1, 40), o = net.Number(1, 150),
            classes = net.Number(1, 70);
  p.input = net.AddBuffer(Kind::kImage, h, w, net.Number(1, 4));
  const int bits1 = net.AddBuffer(Kind::kBits, h, w, c), map1 = net.AddBuffer(Kind::kMap, h, w, c);
  const int bits2 = net.AddBuffer(Kind::kBits, h, w, c), map2 = net.AddBuffer(Kind::kMap, h, w, o);
  const int gate = net.AddBuffer(Kind::kVector, 1, 1, c);
  const int pooled = net.AddBuffer(Kind::kVector, 1, 1, o), logits = net.AddBuffer(Kind::kVector, 1, 1, classes);

  Epilogue stem = net.Norm(c);
  stem.map = map1;
  stem.bits = {{bits1, net.MakeFloats({c}), std::nullopt}};
  p.ops.push_back({"stem", Conv2dOp{p.input,
                                    net.MakeFloats({c, 3, 3, p.buffers[p.input].channels}),
                                    net.MakeFloats({c}),
                                    {1, 1},
                                    {1, 1},
                                    1,
                                    stem}});
  p.ops.push_back({"gate", GlobalAvgPoolOp{map1, gate}});
  Epilogue block = net.Norm(c);
  if (net.Number(0, 1) == 1) block.gain = gate;
  block.shortcut = Shortcut{map1, false, false};
  block.bits = {{bits2, {}, std::nullopt}};
  p.ops.push_back(
      {"block", BinaryConv2dOp{
                    bits1, {{net.MakeWeights(c, 3, 3, c), net.MakeFloats({c}), Shift::kNone}}, {1, 1}, {1, 1}, block}});
  Epilogue mlp = net.Norm(o);
  mlp.map = map2;
  BinaryConv2dOp shifted{bits2, {}, {1, 1}, {0, 0}, mlp};
  for (Shift shift : {Shift::kNone, Shift::kShort, Shift::kLong}) {
    shifted.branches.push_back({net.MakeWeights(o, 1, 1, c), net.MakeFloats({o}), shift});
  }
  p.ops.push_back({"mlp", shifted});
  p.ops.push_back({"pool", GlobalAvgPoolOp{map2, pooled}});
  p.ops.push_back({"head", LinearOp{pooled, logits, net.MakeFloats({classes, o}), net.MakeFloats({classes})}});
  p.outputs = {logits};
  return net;
}

/// All that UsualNetwork lacks: groups, strides, both pools, every shortcut, per-image thresholds, changes of layout.
inline Network UnusualNetwork(uint32_t seed) {
  Network net(seed);
  Program& p = net.program;
  const int planes = net.Number(1, 6), c = planes * net.Number(1, 12), classes = net.Number(1, 9);
  const Pair stride{net.Number(1, 3), net.Number(1, 3)};
  const auto strided = [](int size, int by) { return (size - 1) / by + 1; };  // of a 3x3 window with padding 1
  const int in_h = net.Number(1, 12), in_w = net.Number(1, 12);
  const int h = strided(in_h, stride.y), w = strided(in_w, stride.x), h2 = strided(h, 2), w2 = strided(w, 2);
  p.input = net.AddBuffer(Kind::kImage, in_h, in_w, planes);
  const int lens = net.AddBuffer(Kind::kMap, h, w, planes), grouped = net.AddBuffer(Kind::kMap, h, w, c);
  const int bits = net.AddBuffer(Kind::kBits, h, w, c), halved = net.AddBuffer(Kind::kMap, h2, w2, 2 * c);
  const int largest = net.AddBuffer(Kind::kMap, h2 + 1, w2 + 1, 2 * c);
  const int average = net.AddBuffer(Kind::kMap, h2 / 2 + 1, w2 / 2 + 1, 2 * c);
  const int vector = net.AddBuffer(Kind::kVector, 1, 1, 2 * c);
  const int shifted = net.AddBuffer(Kind::kMap, h2, w2, 2 * c), signs = net.AddBuffer(Kind::kBits, h2, w2, 2 * c);
  const int unpacked = net.AddBuffer(Kind::kMap, h2, w2, 2 * c), both = net.AddBuffer(Kind::kMap, h2, w2, 4 * c);
  const int turned = net.AddBuffer(Kind::kMap, 4 * c, 1, h2 * w2);
  const int flat = net.AddBuffer(Kind::kVector, 1, 1, 4 * c * h2 * w2);
  const int logits = net.AddBuffer(Kind::kVector, 1, 1, classes);

  Epilogue plain;
  plain.map = lens;
  p.ops.push_back({"lens", Conv2dOp{p.input, net.MakeFloats({planes, 3, 3, 1}), {}, stride, {1, 1}, planes, plain}});
  Epilogue norm = net.Norm(c);
  norm.map = grouped;
  norm.bits = {{bits, {}, std::nullopt}};
  p.ops.push_back(
      {"grouped",
       Conv2dOp{lens, net.MakeFloats({c, 1, 1, 1}), net.MakeFloats({c}), {1, 1}, {0, 0}, planes, norm}});
  Epilogue halving;
  halving.shortcut = Shortcut{grouped, true, true};
  halving.map = halved;
  p.ops.push_back({"halved", BinaryConv2dOp{bits,
                                            {{net.MakeWeights(2 * c, 3, 3, c), net.MakeFloats({2 * c}), Shift::kNone}},
                                            {2, 2},
                                            {1, 1},
                                            halving}});
  p.ops.push_back({"largest", PoolOp{halved, largest, {2, 2}, {1, 1}, {1, 1}, false, true, false}});
  p.ops.push_back(
      {"average", PoolOp{largest, average, {2, 2}, {2, 2}, {0, 0}, true, false, net.Number(0, 1) == 1}});
  p.ops.push_back({"vector", GlobalAvgPoolOp{average, vector}});
  Epilogue dynamic;
  dynamic.gain = vector;
  dynamic.beta = vector;
  dynamic.map = shifted;
  dynamic.bits = {{signs, net.MakeFloats({2 * c}), vector}};
  p.ops.push_back({"shifted", ElementwiseOp{halved, dynamic}});
  p.ops.push_back({"unpacked", UnpackOp{signs, unpacked}});
  p.ops.push_back({"both", ConcatOp{{shifted, unpacked}, both}});
  p.ops.push_back({"turned", TransposeOp{both, turned}});
  p.ops.push_back({"flat", ReshapeOp{turned, flat}});
  p.ops.push_back({"head", LinearOp{flat, logits, net.MakeFloats({classes, 4 * c * h2 * w2}), {}}});
  p.outputs = {logits};
  return net;
}

/// A binary convolution whose map is read only as means of windows of 2 x 2: by the shortcuts of one to three others.
inline Network MeansNetwork(uint32_t seed) {
  Network net(seed);
  Program& p = net.program;
  const int h = net.Number(1, 3), w = net.Number(1, 40), in_c = net.Number(1, 70), c = net.Number(1, 150);
  p.input = net.AddBuffer(Kind::kImage, 2 * h, 2 * w, net.Number(1, 3));
  const int bits = net.AddBuffer(Kind::kBits, 2 * h, 2 * w, in_c), map = net.AddBuffer(Kind::kMap, 2 * h, 2 * w, c);
  const int signs = net.AddBuffer(Kind::kBits, 2 * h, 2 * w, c);
  const auto epilogue = [&](int channels) { return net.Number(0, 1) == 1 ? net.Norm(channels) : Epilogue{}; };

  Epilogue stem;
  stem.bits = {{bits, {}, std::nullopt}};
  const Floats lens = net.MakeFloats({in_c, 1, 1, p.buffers[p.input].channels});
  p.ops.push_back({"stem", Conv2dOp{p.input, lens, {}, {1, 1}, {0, 0}, 1, stem}});
  Epilogue whole = epilogue(c);
  whole.map = map;
  whole.bits = {{signs, {}, std::nullopt}};
  BinaryConv2dOp averaged{bits, {}, {1, 1}, {1, 1}, whole};
  for (int branches = net.Number(1, 3); branches > 0; --branches)
    averaged.branches.push_back({net.MakeWeights(c, 3, 3, in_c), net.MakeFloats({c}), Shift::kNone});
  p.ops.push_back({"averaged", averaged});
  for (int readers = net.Number(1, 3); readers > 0; --readers) {
    const bool duplicate = net.Number(0, 1) == 1;
    const int o = duplicate ? 2 * c : c, kernel = net.Number(2, 3);
    const int halved = net.AddBuffer(Kind::kMap, h, w, o), flat = net.AddBuffer(Kind::kVector, 1, 1, h * w * o);
    Epilogue halving = epilogue(o);
    halving.shortcut = Shortcut{map, duplicate, true};
    halving.map = halved;
    const Branch branch{net.MakeWeights(o, kernel, kernel, c), net.MakeFloats({o}), Shift::kNone};
    p.ops.push_back({"halved", BinaryConv2dOp{signs, {branch}, {2, 2}, {kernel - 2, kernel - 2}, halving}});
    p.ops.push_back({"flat", ReshapeOp{halved, flat}});
    p.outputs.push_back(flat);
  }
  return net;
}

inline Network RandomNetwork(uint32_t seed) {
  constexpr Network (*kKinds[])(uint32_t) = {UsualNetwork, UnusualNetwork, MeansNetwork};
  return kKinds[seed % 3](seed);
}

inline std::vector<float> RandomImages(Network& net, int count) {
  const Buffer& in = net.program.buffers[net.program.input];
  std::vector<float> images(static_cast<size_t>(count) * in.channels * in.height * in.width);
  for (float& x : images) x = std::normal_distribution<float>()(net.random);
  return images;
}

/// All outputs, one after the other.
inline std::vector<float> Run(const Session& session, const std::vector<float>& images, int count) {
  const Program& p = session.program();
  std::vector<size_t> begins;
  size_t size = 0;
  for (int id : p.outputs) {
    begins.push_back(size);
    size += static_cast<size_t>(count) * p.buffers[id].channels;
  }
  std::vector<float> out(size);
  std::vector<float*> outputs;
  for (size_t begin : begins) outputs.push_back(out.data() + begin);
  session.Run(images.data(), count, outputs);
  return out;
}

}  // namespace bcdnet::test
