// Without Python: every target and algorithm against SCALAR bit for bit, and threads sharing a session. Runs natively,
// under sanitizers, and under qemu for other machines. Arguments: the targets that must be among those tested.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "networks.h"
#include "reference/fma.h"
#include "runtime/plan.h"
#include "runtime/validate.h"

namespace {

using bcdnet::Kind;
using bcdnet::Session;
using bcdnet::Shift;

int failures = 0;

void Expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void TestTargets(uint32_t seed) {
  bcdnet::test::Network net = bcdnet::test::RandomNetwork(seed);
  const int count = net.Number(1, 3);
  const std::vector<float> images = bcdnet::test::RandomImages(net, count);
  const std::vector<float> expected = bcdnet::test::Run(Session(net.program, {1, "SCALAR", {}}), images, count);
  for (const std::string& target : bcdnet::Targets()) {
    for (const std::string& algorithm : bcdnet::Algorithms(target)) {
      for (int threads : {1, 3}) {
        const Session session(net.program, {threads, target, algorithm});
        Expect(session.target() == target, "target " + target);
        const std::string name =
            target + " " + algorithm + " seed " + std::to_string(seed) + " threads " + std::to_string(threads);
        Expect(Same(bcdnet::test::Run(session, images, count), expected), name);
      }
    }
  }
}

/// A map of which only means are stored, against the same network with one more op that reads the map itself.
void TestMeans(uint32_t seed) {
  bcdnet::test::Network net = bcdnet::test::MeansNetwork(seed);
  bcdnet::Program& p = net.program;
  const std::string name = "means, seed " + std::to_string(seed);
  const std::vector<bcdnet::Place> places = bcdnet::MakePlan(p).places;
  const auto found = std::find_if(places.begin(), places.end(), [](const bcdnet::Place& place) { return place.means; });
  Expect(found != places.end(), name + ": stored");
  if (found == places.end()) return;
  const int map = static_cast<int>(found - places.begin());
  const bcdnet::Buffer buffer = p.buffers[map];

  const int count = 2;
  const std::vector<float> images = bcdnet::test::RandomImages(net, count);
  const Session means(p, {2, {}, {}});
  const std::vector<float> ours = bcdnet::test::Run(means, images, count);
  p.outputs.push_back(net.AddBuffer(Kind::kVector, 1, 1, buffer.channels));
  p.ops.push_back({"reader", bcdnet::GlobalAvgPoolOp{map, p.outputs.back()}});
  const Session whole(p, {2, {}, {}});
  std::vector<float> theirs = bcdnet::test::Run(whole, images, count);
  theirs.resize(ours.size());
  Expect(Same(ours, theirs), name + ": outputs");

  const size_t size = static_cast<size_t>(count) * buffer.height * buffer.width * buffer.channels;
  std::vector<float> captured(size), expected(size);
  means.Debug(images.data(), count, {map}, {captured.data()});
  whole.Debug(images.data(), count, {map}, {expected.data()});
  Expect(Same(captured, expected), name + ": the map itself");
  Expect(Same(bcdnet::test::Run(means, images, count), ours), name + ": outputs once more");
}

void TestSharing(uint32_t seed) {
  bcdnet::test::Network net = bcdnet::test::RandomNetwork(seed);
  const std::vector<float> images = bcdnet::test::RandomImages(net, 4);
  const Session session(net.program, {3, {}, {}});
  const std::vector<float> expected = bcdnet::test::Run(session, images, 4);
  std::vector<std::thread> callers;
  std::vector<int> wrong(6, 0);
  for (int& mine : wrong) {
    callers.emplace_back([&] {
      for (int i = 0; i < 30; ++i) mine += !Same(bcdnet::test::Run(session, images, 4), expected);
    });
  }
  for (std::thread& caller : callers) caller.join();
  Expect(std::count(wrong.begin(), wrong.end(), 0) == 6, "threads sharing a session");
}

/// Products of nearly 1, added to numbers whose last bit is worth 2: sums that lie beside a half by less than a float64
/// shows.
void TestFma() {
  std::mt19937 random(1);
  const auto few = [&] { return static_cast<float>(random() % 8) * 0x1p-23f; };
  int wrong = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float a = 1.0f + few(), b = 1.0f - few(), c = 0x1p24f + 2.0f * static_cast<float>(random() % 4096);
    for (const float d : {-c, c}) wrong += bcdnet::reference::FmaInFloat64(a, b, d) != std::fma(a, b, d);
  }
  Expect(wrong == 0, "fused multiply-add in float64");
}

bool IsValid(const bcdnet::Program& program) {
  try {
    bcdnet::Validate(program);
  } catch (const std::invalid_argument&) {
    return false;
  }
  return true;
}

/// Global pools of a map of 2^27 elements: in all, 2^38 elements may be read.
void TestWork() {
  for (const int pools : {2048, 2049}) {
    bcdnet::Program p;
    const auto add = [&](const bcdnet::Buffer& buffer) {
      p.buffers.push_back(buffer);
      return static_cast<int>(p.buffers.size()) - 1;
    };
    p.input = add({bcdnet::Kind::kImage, 2048, 2048, 32});
    const int map = add({bcdnet::Kind::kMap, 2048, 2048, 32});
    p.ops.push_back({"map", bcdnet::TransposeOp{p.input, map}});
    for (int i = 0; i < pools; ++i)
      p.ops.push_back({"pool", bcdnet::GlobalAvgPoolOp{map, add({bcdnet::Kind::kVector, 1, 1, 32})}});
    p.outputs = {map + 1};
    Expect(IsValid(p) == (pools == 2048), std::to_string(pools) + " global pools of 2^27 elements");
  }
}

/// An op with an epilogue keeps 32 constants for each of its 65536 channels: 256 such ops may be.
void TestKept() {
  for (const int ops : {256, 257}) {
    bcdnet::test::Network net(1);
    bcdnet::Program& p = net.program;
    p.input = net.AddBuffer(Kind::kImage, 1, 1, 65536);
    int map = net.AddBuffer(Kind::kMap, 1, 1, 65536);
    p.ops.push_back({"map", bcdnet::TransposeOp{p.input, map}});
    for (int i = 0; i < ops; ++i) {
      bcdnet::Epilogue copy;
      copy.map = net.AddBuffer(Kind::kMap, 1, 1, 65536);
      p.ops.push_back({"copy", bcdnet::ElementwiseOp{map, copy}});
      map = *copy.map;
    }
    p.outputs = {net.AddBuffer(Kind::kVector, 1, 1, 65536)};
    p.ops.push_back({"vector", bcdnet::ReshapeOp{map, p.outputs[0]}});
    Expect(IsValid(p) == (ops == 256), std::to_string(ops) + " ops of 65536 channels");
  }
}

/// Sizes of more than 32 bits in all, though each buffer's has fewer: right, or refused where there is no such memory.
void TestAddressSpace() {
  bcdnet::test::Network net(1);
  bcdnet::Program& p = net.program;
  constexpr int kSide = 1024, kBits = 4096, kChannels = 16;
  p.input = net.AddBuffer(Kind::kImage, kSide, kSide, 1);
  const int bits = net.AddBuffer(Kind::kBits, kSide, kSide, kBits);
  const int wide = net.AddBuffer(Kind::kMap, kSide, kSide, 10 * kChannels);
  const int map = net.AddBuffer(Kind::kMap, kSide, kSide, kChannels);
  const int both = net.AddBuffer(Kind::kMap, kSide, kSide, 11 * kChannels);
  const int vector = net.AddBuffer(Kind::kVector, 1, 1, 11 * kChannels);
  const auto lens = [&](int channels, const bcdnet::Epilogue& epilogue) {
    return bcdnet::Conv2dOp{p.input, net.MakeFloats({channels, 1, 1, 1}), {}, {1, 1}, {0, 0}, 1, epilogue};
  };
  bcdnet::Epilogue to_bits, to_wide, to_map;
  to_bits.bits = {{bits, {}, std::nullopt}};
  to_wide.map = wide;
  to_map.map = map;
  bcdnet::BinaryConv2dOp mlp{bits, {}, {1, 1}, {0, 0}, to_map};
  for (Shift shift : {Shift::kNone, Shift::kShort, Shift::kLong})
    mlp.branches.push_back({net.MakeWeights(kChannels, 1, 1, kBits), net.MakeFloats({kChannels}), shift});
  p.ops = {{"bits", lens(kBits, to_bits)}, {"wide", lens(10 * kChannels, to_wide)}, {"mlp", mlp},
           {"both", bcdnet::ConcatOp{{map, wide}, both}}, {"pool", bcdnet::GlobalAvgPoolOp{both, vector}}};
  p.outputs = {vector};
  bool refused = false;
  uint64_t bytes = 0;
  try {
    bytes = Session(p, {1, {}, {}}).RunBytes();
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  Expect(sizeof(size_t) == 4 ? refused : bytes > uint64_t{1} << 32, "a run of more than 4 GiB");
}

/// A session that outlives the library's static objects, as one does that another thread runs while the process ends.
struct Survivor {
  bcdnet::test::Network net = bcdnet::test::RandomNetwork(0);
  std::vector<float> images = bcdnet::test::RandomImages(net, 1);
  Session session{net.program, {2, {}, {}}};
  std::vector<float> expected = bcdnet::test::Run(session, images, 1);
};
const Survivor* survivor = nullptr;

}  // namespace

int main(int argc, char** argv) {
  std::atexit([] {  // before there are any such objects: so it runs after their end
    if (!Same(bcdnet::test::Run(survivor->session, survivor->images, 1), survivor->expected)) std::_Exit(1);
  });
  survivor = new Survivor;
  const std::vector<std::string> targets = bcdnet::Targets();
  for (int i = 1; i < argc; ++i)
    Expect(std::count(targets.begin(), targets.end(), argv[i]) == 1, std::string(argv[i]) + " is not tested");
  for (uint32_t seed = 0; seed < 24; ++seed) TestTargets(seed);
  for (uint32_t seed = 0; seed < 12; ++seed) TestMeans(seed);
  for (uint32_t seed : {1, 2}) TestSharing(seed);
  TestFma();
  TestWork();
  TestKept();
  TestAddressSpace();
  std::string names;
  for (const std::string& target : targets) names += " " + target;
  std::printf("%s:%s\n", failures == 0 ? "passed" : "failed", names.c_str());
  return failures == 0 ? 0 : 1;
}
