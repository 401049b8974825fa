// Programs with fields changed at random: a Session is built or std::invalid_argument is thrown, and what is built
// runs. A mutation harness of its own, since a program is a structure, not bytes. Arguments: number of programs, seed
// of the first network; every network is changed in kVariants ways. Build with -DBCDNET_SANITIZE=address,undefined.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "../tests/networks.h"

namespace {

using bcdnet::test::Network;

// Drawing a network's weights takes longer than all these.
constexpr int kVariants = 50;

class Mutator {
 public:
  explicit Mutator(Network& net) : net_(net) {}

  void Mutate() {
    bcdnet::Program& p = net_.program;
    switch (net_.Number(0, 5)) {
      case 0: {
        bcdnet::Buffer& b = p.buffers[Index(p.buffers)];
        int* fields[] = {&b.height, &b.width, &b.channels};
        Change(*fields[net_.Number(0, 2)]);
        break;
      }
      case 1:
        p.buffers[Index(p.buffers)].kind = static_cast<bcdnet::Kind>(net_.Number(0, 3));
        break;
      case 2:
        std::swap(p.ops[Index(p.ops)], p.ops[Index(p.ops)]);
        break;
      case 3:
        Change(net_.Number(0, 1) ? p.input : p.outputs[0]);
        break;
      default:
        std::visit([this](auto& body) { Body(body); }, p.ops[Index(p.ops)].body);
    }
  }

 private:
  template <class T>
  size_t Index(const std::vector<T>& v) {
    return static_cast<size_t>(net_.Number(0, static_cast<int>(v.size()) - 1));
  }

  /// Mostly a step, sometimes an extreme.
  void Change(int& value) {
    constexpr int kExtremes[] = {0, -1, 1, 255, 256, 65536, 2147483647, -2147483647 - 1};
    if (net_.Number(0, 3) == 0) {
      value = kExtremes[net_.Number(0, 7)];
    } else {
      value = static_cast<int>(static_cast<unsigned>(value) + static_cast<unsigned>(net_.Number(-2, 2)));
    }
  }

  void Change(bcdnet::Pair& pair) { Change(net_.Number(0, 1) ? pair.x : pair.y); }

  /// A shape that claims other than what is there may only ever claim less: the arrays' sizes are the bindings' part.
  template <class T>
  void Change(bcdnet::Tensor<T>& t) {
    if (!t || t.shape.empty() || net_.Number(0, 3) == 0) {
      t = {};
      return;
    }
    int64_t& n = t.shape[Index(t.shape)];
    if (n > 1 && net_.Number(0, 1)) {
      --n;
    } else {
      t.shape.pop_back();
    }
  }

  void Change(std::optional<int>& id) {
    if (id && net_.Number(0, 2) == 0) {
      id.reset();
    } else {
      int value = id.value_or(net_.Number(0, 7));
      Change(value);
      id = value;
    }
  }

  void Change(bcdnet::Epilogue& e) {
    switch (net_.Number(0, 7)) {
      case 0:
        return Change(net_.Number(0, 1) ? e.gain : e.beta);
      case 1:
        return Change(e.mul);
      case 2:
        return Change(e.map);
      case 3:
        if (!e.shortcut) e.shortcut = bcdnet::Shortcut{net_.Number(0, 7), false, false};
        return Change(e.shortcut->buffer);
      case 4:
        if (!e.shortcut) e.shortcut = bcdnet::Shortcut{net_.Number(0, 7), false, false};
        (net_.Number(0, 1) ? e.shortcut->duplicate : e.shortcut->avg_pool) ^= true;
        return;
      case 5:
        if (e.prelu) Change(net_.Number(0, 1) ? e.prelu->slope : e.prelu->bias_in);
        return;
      case 6:
        e.bits.push_back({net_.Number(-1, 8), {}, std::nullopt});
        return;
      default:
        if (!e.bits.empty()) {
          bcdnet::BitsOutput& bits = e.bits[Index(e.bits)];
          net_.Number(0, 1) ? Change(bits.buffer) : Change(bits.alpha);
        }
    }
  }

  template <class Body_>
  void Body(Body_& body) {
    switch (net_.Number(0, 3)) {
      case 0:
        if constexpr (requires { body.input; }) Change(body.input);
        break;
      case 1:
        if constexpr (requires { body.output; }) Change(body.output);
        if constexpr (requires { body.stride; }) Change(net_.Number(0, 1) ? body.stride : body.padding);
        break;
      case 2:
        if constexpr (requires { body.weight; }) Change(net_.Number(0, 1) ? body.weight : body.bias);
        if constexpr (requires { body.groups; }) Change(body.groups);
        if constexpr (requires { body.branches; }) {
          bcdnet::Branch& branch = body.branches[Index(body.branches)];
          branch.shift = static_cast<bcdnet::Shift>(net_.Number(0, 2));
          net_.Number(0, 1) ? Change(branch.weight) : Change(branch.scale);
          if (net_.Number(0, 3) == 0 && body.branches.size() < 5) body.branches.push_back(branch);
        }
        break;
      default:
        if constexpr (requires { body.epilogue; }) Change(body.epilogue);
    }
  }

  Network& net_;
};

/// Whether the program of the network is valid, and then has run.
bool BuildAndRun(Network& net) {
  try {
    const bcdnet::Session session(net.program, {1, {}, {}});
    if (session.RunBytes() > (1 << 26)) return false;
    bcdnet::test::Run(session, bcdnet::test::RandomImages(net, 1), 1);
    return true;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int programs = argc > 1 ? std::atoi(argv[1]) : 10000;
  const uint32_t first = argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 0;
  int valid = 0;
  for (int done = 0; done < programs;) {
    const uint32_t seed = first + static_cast<uint32_t>(done / kVariants);
    // Where a sanitizer stops the program, the last line tells from which seed on to look.
    if (done % 100000 == 0) std::fprintf(stderr, "%d programs done, network %u\n", done, seed);
    Network net = bcdnet::test::RandomNetwork(seed);
    const bcdnet::Program original = net.program;
    for (int variant = 0; variant < kVariants && done < programs; ++variant, ++done) {
      net.program = original;
      Mutator mutator(net);
      for (int n = net.Number(1, 3); n > 0; --n) mutator.Mutate();
      valid += BuildAndRun(net);
    }
  }
  std::printf("%d programs, %d of them valid\n", programs, valid);
  return 0;
}
