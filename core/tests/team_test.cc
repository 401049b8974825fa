// Threads that cannot be had: memory that runs out as they start, and the child of a fork, where none of them lives.
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

#include "networks.h"
#include "runtime/team.h"

namespace {
thread_local int allowed = INT_MAX;  // allocations of this thread until one fails
}

// Inlined at one end only, they would look to GCC like a mismatch of allocation and release.
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return allowed-- == 0 ? nullptr : std::malloc(size);
}
[[gnu::noinline]] void* operator new(size_t size) {
  if (void* memory = operator new(size, std::nothrow)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

constexpr int kThreads = 4;

/// Whether f() was spared an exception, its allocation number `at` (from 0) having failed.
template <class F>
bool Failing(int at, const F& f) {
  allowed = at;
  try {
    f();
  } catch (const std::exception&) {
    allowed = INT_MAX;
    return false;
  }
  allowed = INT_MAX;
  return true;
}

/// An exception, whichever allocation fails: threads left alone would end the process.
bool TestMemory() {
  int at = 0;
  while (!Failing(at, [] { bcdnet::Team team(kThreads); })) ++at;
  return at >= kThreads;
}

/// Whether f() is true in the child of a fork.
template <class F>
bool Forked(const F& f) {
  const pid_t child = fork();
  if (child == 0) _exit(f() ? 0 : 1);
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/// However many threads a child can start, its runs are right and need the same memory; two may be its first.
bool TestFork() {
  bcdnet::test::Network net = bcdnet::test::RandomNetwork(0);
  const std::vector<float> images = bcdnet::test::RandomImages(net, 1);
  const bcdnet::Session session(net.program, {kThreads, {}, {}});
  const std::vector<float> expected = bcdnet::test::Run(session, images, 1);
  const size_t bytes = session.RunBytes();
  const auto right = [&] { return bcdnet::test::Run(session, images, 1) == expected && session.RunBytes() == bytes; };
  bool passed = bytes > bcdnet::Session(net.program, {1, {}, {}}).RunBytes();
  for (int at = 0; at < 3 * kThreads; ++at) {
    passed &= Forked([&] {
      Failing(at, right);
      return right();
    });
  }
  passed &= Forked([&] {
    bool other = false;
    std::thread caller([&] { other = right(); });
    const bool mine = right();
    caller.join();
    return mine && other;
  });
  return passed;
}

}  // namespace

int main() {
  const bool memory = TestMemory(), fork = TestFork();
  std::printf("memory %s, fork %s\n", memory ? "passed" : "failed", fork ? "passed" : "failed");
  return memory && fork ? 0 : 1;
}
