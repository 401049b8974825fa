#include "runtime/team.h"

#include <exception>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bcdnet {
namespace {

constexpr uint64_t kJoined = (uint64_t{1} << 32) - 1;
constexpr uint64_t kOpen = uint64_t{1} << 32;
constexpr uint64_t kLoop = uint64_t{1} << 33;

// A worker looks this often for the next loop before it sleeps: some 50 microseconds, longer than the gap between two
// ops of a run and short beside a run.
constexpr int kSpins = 2000;

std::atomic<int> forks{0};
#if (defined(__unix__) || defined(__APPLE__)) && !defined(__EMSCRIPTEN__)
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, [] { ++forks; });
#endif

void Pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

int Forks() { return forks; }

Team::Team(int threads) : stretches_(threads), forks_(forks) {
  try {
    Hire();
  } catch (const std::exception& error) {
    // No thread or no memory was to be had. No destructor runs, and a thread nobody joined would end the process.
    Stop();
    throw std::runtime_error("cannot start " + std::to_string(threads) + " threads (" + error.what() + ")");
  }
}

Team::~Team() { Stop(); }

void Team::Hire() {
  for (int thread = 1; thread < threads(); ++thread) workers_.emplace_back([this, thread] { Work(thread); });
}

void Team::Forget() {
  // They run in the parent: here they can be neither joined nor detached, and their handles must not be destroyed.
  new std::vector<std::thread>(std::move(workers_));
  workers_.clear();
}

void Team::Replace() {
  Forget();
  forks_ = forks;
  state_ = 0;
  sleepers_ = 0;
  try {
    Hire();
  } catch (const std::exception&) {
    // Those that could be started are enough.
  }
}

void Team::Stop() {
  if (forks_ != forks) return Forget();
  stop_ = true;
  ++wakeups_;
  wakeups_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::Items(int thread) {
  for (int i = 0; i < threads(); ++i) {
    Stretch& stretch = stretches_[(thread + i) % threads()];
    for (int item = stretch.next++; item < stretch.end; item = stretch.next++) call_(context_, item, thread);
  }
}

void Team::Start(int count, const void* context, Call call) {
  if (forks_ != forks) Replace();
  context_ = context;
  call_ = call;
  for (int64_t thread = 0; thread < threads(); ++thread) {
    stretches_[thread].next = static_cast<int>(count * thread / threads());
    stretches_[thread].end = static_cast<int>(count * (thread + 1) / threads());
  }
  state_ += kLoop + kOpen;  // nobody is joined, and the open bit is clear: a new number, open
  if (sleepers_ > 0) {
    ++wakeups_;
    wakeups_.notify_all();
  }
  Items(0);
  // All items are taken. Whoever has not joined by now is not waited for, so a sleeping worker costs nothing.
  state_ -= kOpen;
  for (int spins = 0; (state_ & kJoined) != 0; ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Team::Work(int thread) {
  uint64_t done = 0;  // number of the last loop joined
  for (int spins = 0; !stop_;) {
    uint64_t state = state_;
    if ((state & kOpen) != 0 && state / kLoop != done) {
      if (!state_.compare_exchange_weak(state, state + 1)) continue;
      done = state / kLoop;
      Items(thread);
      --state_;
      spins = 0;
    } else if (spins < kSpins) {
      ++spins;
      Pause();
    } else {
      const uint32_t seen = wakeups_;
      ++sleepers_;
      // A loop that opened before `sleepers_` was raised is seen here; one that opens later sees `sleepers_`.
      state = state_;
      if (!stop_ && ((state & kOpen) == 0 || state / kLoop == done)) wakeups_.wait(seen);
      --sleepers_;
      spins = 0;
    }
  }
}

}  // namespace bcdnet
