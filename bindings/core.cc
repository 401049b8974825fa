// Python's door to the core: types, checks and the GIL; nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

#include "bcdnet/session.h"
#include "parse.h"

#if PY_VERSION_HEX < 0x030D0000
#define Py_IsFinalizing _Py_IsFinalizing
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace bcdnet {
namespace {

using Images = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::numpy, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

/// Lets other threads run Python. A daemon thread that comes back as the interpreter ends would be unwound by it, which
/// C++ answers with abort(): it stays here until the process is gone, as Python itself has it from 3.14 on.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  ~Unlocked() {
    while (Py_IsFinalizing()) std::this_thread::sleep_for(std::chrono::hours(1));
    PyEval_RestoreThread(state_);
  }

 private:
  PyThreadState* state_;
};

/// A numpy array of its own memory.
template <class T>
nb::ndarray<nb::numpy, T> NewArray(std::initializer_list<size_t> shape) {
  size_t size = 1;
  for (size_t n : shape) size *= n;
  auto data = std::make_unique<T[]>(size);
  T* pointer = data.get();
  nb::capsule owner(data.release(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(pointer, shape, owner);
}

void CheckImages(const Session& session, const Images& x) {
  const Buffer& in = session.program().buffers[session.program().input];
  const bool fits = x.shape(1) == static_cast<size_t>(in.channels) && x.shape(2) == static_cast<size_t>(in.height) &&
                    x.shape(3) == static_cast<size_t>(in.width);
  if (fits) return;
  throw std::invalid_argument("the input must have the shape [N, " + std::to_string(in.channels) + ", " +
                              std::to_string(in.height) + ", " + std::to_string(in.width) + "]");
}

/// Row pointers of given outputs, or of new ones appended to `outputs`.
std::vector<float*> OutputPointers(const Session& session, size_t count, std::vector<nb::object>& outputs, bool given) {
  const Program& program = session.program();
  if (given && outputs.size() != program.outputs.size()) throw std::invalid_argument("wrong number of output arrays");
  std::vector<float*> pointers;
  for (size_t i = 0; i < program.outputs.size(); ++i) {
    const size_t channels = program.buffers[program.outputs[i]].channels;
    if (!given) outputs.push_back(nb::cast(NewArray<float>({count, channels})));
    Output array;
    if (!nb::try_cast(outputs[i], array, false) || array.shape(0) != count || array.shape(1) != channels) {
      throw std::invalid_argument("output " + std::to_string(i) +
                                  " must be a writable C-contiguous float32 array of shape [" + std::to_string(count) +
                                  ", " + std::to_string(channels) + "]");
    }
    pointers.push_back(array.data());
  }
  return pointers;
}

std::vector<nb::object> Run(const Session& session, const Images& x, std::optional<std::vector<nb::object>> outputs) {
  CheckImages(session, x);
  std::vector<nb::object> arrays = outputs.value_or(std::vector<nb::object>{});
  const std::vector<float*> pointers = OutputPointers(session, x.shape(0), arrays, outputs.has_value());
  const Unlocked unlocked;
  session.Run(x.data(), static_cast<int64_t>(x.shape(0)), pointers);
  return arrays;
}

std::vector<double> Profile(const Session& session, const Images& x) {
  CheckImages(session, x);
  std::vector<nb::object> arrays;
  const std::vector<float*> pointers = OutputPointers(session, x.shape(0), arrays, false);
  const Unlocked unlocked;
  return session.Profile(x.data(), static_cast<int64_t>(x.shape(0)), pointers);
}

nb::dict Debug(const Session& session, const Images& x, const std::vector<int>& ids) {
  CheckImages(session, x);
  const Program& program = session.program();
  const size_t count = x.shape(0);
  nb::dict result;
  std::vector<int> distinct;
  std::vector<void*> captures;
  for (int id : ids) {
    if (result.contains(nb::int_(id))) continue;
    distinct.push_back(id);
    if (id < 0 || id >= static_cast<int>(program.buffers.size()))
      throw std::invalid_argument("no buffer " + std::to_string(id));
    const Buffer& b = program.buffers[id];
    const size_t h = b.height, w = b.width, c = b.channels;
    if (b.kind == Kind::kBits) {
      auto array = NewArray<uint32_t>({count, h, w, (c + 31) / 32});
      captures.push_back(array.data());
      result[nb::int_(id)] = array;
    } else {
      auto array = b.kind == Kind::kVector ? NewArray<float>({count, c}) : NewArray<float>({count, h, w, c});
      captures.push_back(array.data());
      result[nb::int_(id)] = array;
    }
  }
  const Unlocked unlocked;
  session.Debug(x.data(), static_cast<int64_t>(count), distinct, captures);
  return result;
}

}  // namespace

NB_MODULE(_core, m) {
#ifdef NDEBUG
  nb::set_leak_warnings(false);  // a thread that is in a run as the interpreter ends keeps its session: no news to a user
#endif
  nb::class_<Session>(m, "Session")
      .def(
          "__init__",
          [](Session* self, const nb::list& buffers, const nb::list& ops, const nb::dict& tensors,
             const nb::list& inputs, const nb::list& outputs, int threads, std::optional<std::string> target,
             std::optional<std::string> algorithm) {
            const ParsedProgram parsed = ParseProgram(buffers, ops, tensors, inputs, outputs);
            const Options options{threads, std::move(target), std::move(algorithm)};
            const Unlocked unlocked;
            new (self) Session(parsed.program, options);
          },
          "buffers"_a, "ops"_a, "tensors"_a, "inputs"_a, "outputs"_a, "threads"_a = 1, "target"_a = nb::none(),
          "algorithm"_a = nb::none())
      .def("run", &Run, "x"_a.noconvert(), "outputs"_a = nb::none())
      .def("profile", &Profile, "x"_a.noconvert())
      .def("debug", &Debug, "x"_a.noconvert(), "buffers"_a)
      .def_prop_ro("target", &Session::target)
      .def_prop_ro("threads", &Session::threads)
      .def_prop_ro("run_bytes", &Session::RunBytes)
      .def_prop_ro("op_algorithms", &Session::OpAlgorithms);
  m.def("targets", &Targets);
  m.def("algorithms", &Algorithms, "target"_a);
  m.def("peak", &Peak, "kind"_a, "target"_a, nb::call_guard<Unlocked>());
}

}  // namespace bcdnet
