// Threads that work on one loop at a time.
//
// Each thread has a stretch of the items and, once that is done, takes what is left of the others'. So an op's items meet
// in a core's cache what the same part of the op before left there; no item's result depends on who does it.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace bcdnet {

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  /// As many as were asked for, always: memory is sized by it, while a fork's child may have to do with fewer.
  int threads() const { return static_cast<int>(stretches_.size()); }

  /// Calls f(item, thread) for every item in [0, count), thread in [0, threads()), and returns when all are done.
  /// Only one caller at a time.
  template <class F>
  void For(int count, const F& f) {
    Start(count, &f,
          [](const void* context, int item, int thread) { (*static_cast<const F*>(context))(item, thread); });
  }

 private:
  using Call = void (*)(const void*, int item, int thread);
  void Start(int count, const void* context, Call call);
  void Work(int thread);
  void Items(int thread);
  void Hire();
  void Forget();
  void Replace();
  void Stop();

  /// One thread's stretch, [next, end), on a cache line of its own.
  struct alignas(64) Stretch {
    std::atomic<int> next{0};
    int end = 0;
  };

  // The loop at hand: written by its caller while no worker has joined, read by workers after they joined.
  const void* context_ = nullptr;
  Call call_ = nullptr;
  std::vector<Stretch> stretches_;  // one for each thread that was asked for; the others do that of a missing one
  int forks_;                       // when the workers were started

  // Bits 0..31: workers that joined and have not left. Bit 32: open for joining. Above: number of the loop.
  std::atomic<uint64_t> state_{0};
  std::atomic<uint32_t> wakeups_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

/// How many forks lie between this process and the one that loaded the library. A fork's child has no thread but its
/// own.
int Forks();

/// The loop in the caller's thread where there is no team (or another run has it).
template <class F>
void ForEach(Team* team, int count, const F& f) {
  if (team != nullptr && count > 1) {
    team->For(count, f);
  } else {
    for (int item = 0; item < count; ++item) f(item, 0);
  }
}

}  // namespace bcdnet
