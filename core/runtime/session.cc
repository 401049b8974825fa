#include "bcdnet/session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>

#include "runtime/plan.h"
#include "runtime/step.h"
#include "runtime/validate.h"

namespace bcdnet {
namespace {

constexpr int kMaxThreads = 1024;

/// Forgets the caller's arrays: the steps hold their own copies.
void DropTensors(Program& program) {
  const auto drop = [](auto&... tensors) { ((tensors = {}), ...); };
  for (Op& op : program.ops) {
    std::visit(
        [&](auto& body) {
          if constexpr (requires { body.epilogue; }) {
            Epilogue& e = body.epilogue;
            drop(e.mul, e.add);
            if (e.prelu) drop(e.prelu->bias_in, e.prelu->slope, e.prelu->bias_out);
            for (BitsOutput& bits : e.bits) drop(bits.bias);
          }
          if constexpr (requires { body.weight; }) drop(body.weight, body.bias);
          if constexpr (requires { body.branches; }) {
            for (Branch& branch : body.branches) drop(branch.weight, branch.scale);
          }
        },
        op.body);
  }
}

}  // namespace

struct Session::Impl {
  using Memory = AlignedVector<std::byte>;

  /// What runs at the same time share. Another thread may hold a lock as the process forks, and is not there to let it
  /// go in the child, which begins with one of its own.
  struct Shared {
    int forks = Forks();
    std::mutex memory_mutex;
    std::vector<Memory> memory;
    std::mutex team_mutex;
  };

  Impl(const Program& p, const Options& options)
      : program((Validate(p), p)),
        plan(MakePlan(program)),
        kernels(options.target ? FindKernelTable(*options.target) : KernelTables().front()),
        team(CheckThreads(options.threads)) {
    const auto wanted = [&](const BinaryAlgorithm& algorithm) { return algorithm.name == *options.algorithm; };
    if (options.algorithm && std::none_of(kernels.algorithms.begin(), kernels.algorithms.end(), wanted))
      throw std::invalid_argument("unknown algorithm '" + *options.algorithm + "' for " + kernels.target);
    const StepContext context{kernels, plan.places, options.algorithm ? &*options.algorithm : nullptr};
    for (const Op& op : program.ops) {
      steps.push_back(std::visit([&](const auto& body) { return MakeStep(body, context); }, op.body));
      scratch_bytes = std::max(scratch_bytes, RoundUp(steps.back()->scratch_bytes()));
      thread_bytes = std::max(thread_bytes, RoundUp(steps.back()->thread_scratch_bytes()));
    }
    DropTensors(program);
    if (run_bytes() > PTRDIFF_MAX) throw std::bad_alloc();  // more than this machine can address
  }

  static int CheckThreads(int threads) {
    if (threads < 1 || threads > kMaxThreads) throw std::invalid_argument("threads must be from 1 to 1024");
    return threads;
  }

  uint64_t run_bytes() const { return RoundUp(plan.arena_bytes) + scratch_bytes + team.threads() * thread_bytes; }

  ~Impl() {
    if (Shared* last = shared; last != first.get() && last->forks == Forks()) delete last;
    if (first->forks != Forks()) static_cast<void>(first.release());  // a thread that is not there may have held it
  }

  Shared& shared_here() {
    Shared* here = shared;
    if (here->forks != Forks()) {
      auto fresh = std::make_unique<Shared>();
      if (shared.compare_exchange_strong(here, fresh.get())) here = fresh.release();
    }
    return *here;
  }

  static Memory TakeMemory(Shared& here, size_t bytes) {
    {
      const std::lock_guard lock(here.memory_mutex);
      if (!here.memory.empty()) {
        Memory m = std::move(here.memory.back());
        here.memory.pop_back();
        return m;
      }
    }
    // Zeros: padding lanes are computed with and thrown away, and must not start as denormals, which are slow.
    return Memory(bytes, std::byte{0});
  }

  static void GiveMemory(Shared& here, Memory m) {
    const std::lock_guard lock(here.memory_mutex);
    here.memory.push_back(std::move(m));
  }

  /// after(op, image, frame) is called after every op; `whole_maps` has room for those that are not stored.
  template <class After>
  void Run(const float* images, int64_t count, const std::vector<float*>& outputs, const After& after,
           std::byte* whole_maps = nullptr) {
    Shared& here = shared_here();
    Memory memory_of_run = TakeMemory(here, run_bytes());
    // One run has the team; others at the same time use their own thread alone, with the same results.
    std::unique_lock team_lock(here.team_mutex, std::defer_lock);
    const bool parallel = team.threads() > 1 && team_lock.try_lock();
    std::byte* base = memory_of_run.data();
    Frame frame{images,
                base,
                base + RoundUp(plan.arena_bytes),
                base + RoundUp(plan.arena_bytes) + scratch_bytes,
                thread_bytes,
                parallel ? &team : nullptr,
                whole_maps};
    const Buffer& in = program.buffers[program.input];
    const size_t image_floats = static_cast<size_t>(in.channels) * in.height * in.width;
    for (int64_t n = 0; n < count; ++n) {
      frame.image = images + n * image_floats;
      for (size_t i = 0; i < steps.size(); ++i) {
        steps[i]->Run(frame);
        after(i, n, frame);
      }
      for (size_t i = 0; i < outputs.size(); ++i) {
        const Place& place = plan.places[program.outputs[i]];
        std::copy_n(frame.floats(place), place.buffer.channels, outputs[i] + n * place.buffer.channels);
      }
    }
    GiveMemory(here, std::move(memory_of_run));
  }

  /// Copies a buffer to the place of image `number` in `to`, where it has no padding.
  void Capture(const Frame& frame, int id, int64_t number, void* to) const {
    const Place& place = plan.places[id];
    const Buffer& buffer = program.buffers[id];
    const std::byte* from = place.means ? frame.whole_maps + place.whole : frame.arena + place.offset;
    const size_t pixels = static_cast<size_t>(buffer.height) * buffer.width;
    const size_t line = static_cast<size_t>(place.stride) * 4;
    const size_t bytes = buffer.kind == Kind::kBits ? line : static_cast<size_t>(buffer.channels) * 4;
    std::byte* copy = static_cast<std::byte*>(to) + number * pixels * bytes;
    for (size_t p = 0; p < pixels; ++p) std::memcpy(copy + p * bytes, from + p * line, bytes);
  }

  Program program;
  Plan plan;
  const KernelTable& kernels;
  Team team;
  std::vector<std::unique_ptr<Step>> steps;
  uint64_t scratch_bytes = 0, thread_bytes = 0;
  std::unique_ptr<Shared> first = std::make_unique<Shared>();
  std::atomic<Shared*> shared{first.get()};
};

Session::Session(const Program& program, const Options& options) : impl_(std::make_unique<Impl>(program, options)) {}
Session::~Session() = default;

void Session::Run(const float* images, int64_t count, const std::vector<float*>& outputs) const {
  impl_->Run(images, count, outputs, [](size_t, int64_t, const Frame&) {});
}

std::vector<double> Session::Profile(const float* images, int64_t count, const std::vector<float*>& outputs) const {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds(impl_->steps.size(), 0.0);
  Clock::time_point last = Clock::now();
  impl_->Run(images, count, outputs, [&](size_t op, int64_t, const Frame&) {
    const Clock::time_point now = Clock::now();
    seconds[op] += std::chrono::duration<double>(now - last).count();
    last = now;
  });
  return seconds;
}

void Session::Debug(const float* images, int64_t count, const std::vector<int>& ids,
                    const std::vector<void*>& captures) const {
  const Program& program = impl_->program;
  std::vector<std::vector<size_t>> written(program.ops.size());  // by op: indices into ids, captured right after it
  for (size_t i = 0; i < ids.size(); ++i) {
    const int id = ids[i];
    if (id < 0 || id >= static_cast<int>(program.buffers.size()) || id == program.input) {
      throw std::invalid_argument("buffer " + std::to_string(id) + " does not exist or is the input");
    }
    const int writer = impl_->plan.writers[id];
    if (writer < 0) throw std::invalid_argument("buffer " + std::to_string(id) + " is never written");
    written[writer].push_back(i);
  }
  // Written only where one of them is wanted: class activation maps want none, image by image.
  const bool whole = std::any_of(ids.begin(), ids.end(), [&](int id) { return impl_->plan.places[id].means; });
  Impl::Memory whole_maps(whole ? impl_->plan.whole_bytes : 0, std::byte{0});
  const auto capture = [&](size_t op, int64_t image, const Frame& frame) {
    for (size_t i : written[op]) impl_->Capture(frame, ids[i], image, captures[i]);
  };
  impl_->Run(images, count, {}, capture, whole ? whole_maps.data() : nullptr);
}

const std::string& Session::target() const { return impl_->kernels.target; }
int Session::threads() const { return impl_->team.threads(); }
const Program& Session::program() const { return impl_->program; }
size_t Session::RunBytes() const { return impl_->run_bytes(); }

std::vector<std::string> Session::OpAlgorithms() const {
  std::vector<std::string> names;
  for (const auto& step : impl_->steps) names.push_back(step->algorithm());
  return names;
}

std::vector<std::string> Targets() {
  std::vector<std::string> names;
  for (const KernelTable& table : KernelTables()) names.push_back(table.target);
  return names;
}

std::vector<std::string> Algorithms(const std::string& target) {
  std::vector<std::string> names;
  for (const BinaryAlgorithm& algorithm : FindKernelTable(target).algorithms) names.push_back(algorithm.name);
  return names;
}

double Peak(const std::string& kind, const std::string& target) {
  const double peak = FindKernelTable(target).peak(kind);
  if (peak <= 0) throw std::invalid_argument("unknown kind of peak '" + kind + "': shuffle, pairs, popcount or fp32");
  return peak;
}

}  // namespace bcdnet
