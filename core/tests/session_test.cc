// Without Python: every target and algorithm against SCALAR bit for bit, and threads sharing a session. Runs natively,
// under sanitizers, and under qemu for other machines. Arguments: the targets that must be among those tested.
#include <algorithm>
#include <cstdio>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>

#include "networks.h"
#include "reference/fma.h"

namespace {

using bcdnet::Session;

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

void TestSharing() {
  bcdnet::test::Network net = bcdnet::test::RandomNetwork(1);
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

/// Numbers of 12 bits, whose products end near halves of a float32 once they are added to a number 2^12 to 2^40 as large.
void TestFma() {
  std::mt19937 random(1);
  const auto number = [&] { return static_cast<float>(static_cast<int>(random() % 8192) - 4096); };
  int wrong = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const float a = number() * 0x1p-12f, b = number(), c = number() * std::ldexp(1.0f, static_cast<int>(random() % 40));
    if (bcdnet::reference::FmaInFloat64(a, b, c) != std::fma(a, b, c)) ++wrong;
  }
  Expect(wrong == 0, "fused multiply-add in float64");
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> targets = bcdnet::Targets();
  for (int i = 1; i < argc; ++i)
    Expect(std::count(targets.begin(), targets.end(), argv[i]) == 1, std::string(argv[i]) + " is not tested");
  for (uint32_t seed = 0; seed < 12; ++seed) TestTargets(seed);
  TestSharing();
  TestFma();
  std::string names;
  for (const std::string& target : targets) names += " " + target;
  std::printf("%s:%s\n", failures == 0 ? "passed" : "failed", names.c_str());
  return failures == 0 ? 0 : 1;
}
