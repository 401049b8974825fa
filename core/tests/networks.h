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

  std::mt19937 random;
  Program program{};
  std::deque<std::vector<float>> floats;
  std::deque<std::vector<uint32_t>> words;
};

/// Image, convolution, binary convolution with shortcut, three shifted branches, pooling, linear: every hot kernel.
inline Network RandomNetwork(uint32_t seed) {
  Network net(seed);
  Program& p = net.program;
  const int h = net.Number(1, 9), w = net.Number(1, 9), c = 4 * net.Number(1, 40), o = net.Number(1, 150),
            classes = net.Number(1, 70);
  p.input = net.AddBuffer(Kind::kImage, h, w, net.Number(1, 4));
  const int bits1 = net.AddBuffer(Kind::kBits, h, w, c), map1 = net.AddBuffer(Kind::kMap, h, w, c);
  const int bits2 = net.AddBuffer(Kind::kBits, h, w, c), map2 = net.AddBuffer(Kind::kMap, h, w, o);
  const int pooled = net.AddBuffer(Kind::kVector, 1, 1, o), logits = net.AddBuffer(Kind::kVector, 1, 1, classes);
  const auto norm = [&](int channels) {
    Epilogue e;
    e.mul = net.MakeFloats({channels});
    e.add = net.MakeFloats({channels});
    e.prelu = Prelu{net.MakeFloats({channels}), net.MakeFloats({channels}), net.MakeFloats({channels})};
    return e;
  };

  Epilogue stem = norm(c);
  stem.map = map1;
  stem.bits = {{bits1, net.MakeFloats({c}), std::nullopt}};
  p.ops.push_back({"stem", Conv2dOp{p.input,
                                    net.MakeFloats({c, 3, 3, p.buffers[p.input].channels}),
                                    net.MakeFloats({c}),
                                    {1, 1},
                                    {1, 1},
                                    1,
                                    stem}});
  Epilogue block = norm(c);
  block.shortcut = Shortcut{map1, false, false};
  block.bits = {{bits2, {}, std::nullopt}};
  p.ops.push_back(
      {"block", BinaryConv2dOp{
                    bits1, {{net.MakeWeights(c, 3, 3, c), net.MakeFloats({c}), Shift::kNone}}, {1, 1}, {1, 1}, block}});
  Epilogue mlp = norm(o);
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

inline std::vector<float> RandomImages(Network& net, int count) {
  const Buffer& in = net.program.buffers[net.program.input];
  std::vector<float> images(static_cast<size_t>(count) * in.channels * in.height * in.width);
  for (float& x : images) x = std::normal_distribution<float>()(net.random);
  return images;
}

/// Outputs of the (only) output.
inline std::vector<float> Run(const Session& session, const std::vector<float>& images, int count) {
  const Program& p = session.program();
  std::vector<float> out(static_cast<size_t>(count) * p.buffers[p.outputs[0]].channels);
  session.Run(images.data(), count, {out.data()});
  return out;
}

}  // namespace bcdnet::test
