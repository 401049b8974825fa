// The C door to the core: bcdnet.h says what each function does.
#include "bcdnet.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "bcdnet/session.h"
#include "image.h"
#include "packed_file.h"

namespace bcdnet {
namespace {

thread_local std::string error;

/// One line, whatever names a file has.
std::string Printable(std::string text) {
  std::ranges::replace_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, '?');
  return text;
}

/// What f returns, or, where it throws, `failed` and a message in `error`.
template <class F>
auto Guard(const F& f, decltype(f()) failed) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  } catch (const std::exception& e) {
    try {
      error = Printable(e.what());
    } catch (const std::bad_alloc&) {
      error = "out of memory";
    }
  }
  return failed;
}

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

Options OptionsFor(int threads) {
  Require(threads >= 0, "threads: must not be negative");
  Options options;
  options.threads = threads > 0 ? threads : std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 1024);
  return options;
}

}  // namespace
}  // namespace bcdnet

struct bcdnet_model {
  std::vector<std::string> output_names, labels;
  std::optional<bcdnet::Preprocess> preprocess;
  bcdnet::Session session;

  bcdnet_model(bcdnet::PackedFile file, int threads)
      : output_names(std::move(file.output_names)),
        labels(std::move(file.labels)),
        preprocess(std::move(file.preprocess)),
        session(file.program, bcdnet::OptionsFor(threads)) {}

  const bcdnet::Buffer& input() const { return session.program().buffers[session.program().input]; }
  bool has_output(int output) const { return output >= 0 && output < static_cast<int>(output_names.size()); }
  int output_size(int output) const { return session.program().buffers[session.program().outputs[output]].channels; }

  void Prepare(const bcdnet::Pixels& pixels, float* image) const {
    using bcdnet::Require;
    Require(preprocess.has_value(),
            "the file does not say how images are to be prepared; pass prepared ones to bcdnet_run");
    Require(pixels.data != nullptr && image != nullptr, "pixels and the image must not be NULL");
    Require(pixels.width > 0 && pixels.height > 0, "an image must not be empty");
    Require(pixels.channels == 1 || pixels.channels == 3 || pixels.channels == 4, "pixels have 1, 3 or 4 channels");
    Require(pixels.stride >= size_t{1} * pixels.width * pixels.channels, "stride: shorter than a row");
    Require(input().channels == 1 || input().channels == 3, "the network's input has neither 1 nor 3 channels");
    bcdnet::Prepare(pixels, *preprocess, input(), image);
  }
};

namespace bcdnet {
namespace {

Pixels PixelsOf(const uint8_t* data, int width, int height, int channels, size_t stride) {
  return {data, width, height, channels, stride > 0 ? stride : size_t{1} * width * channels};
}

std::vector<float> Logits(const bcdnet_model& model, const float* image) {
  std::vector<std::vector<float>> outputs;
  std::vector<float*> pointers;
  for (size_t i = 0; i < model.output_names.size(); ++i) outputs.emplace_back(model.output_size(static_cast<int>(i)));
  for (std::vector<float>& output : outputs) pointers.push_back(output.data());
  model.session.Run(image, 1, pointers);
  return std::move(outputs[0]);
}

void Softmax(const std::vector<float>& logits, float* probabilities) {
  Require(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }),
          "the logits are not finite: the network is damaged");
  const double largest = *std::ranges::max_element(logits);
  std::vector<double> odds;
  double sum = 0;
  for (const float x : logits) sum += odds.emplace_back(std::exp(x - largest));
  for (const double x : odds) *probabilities++ = static_cast<float>(x / sum);
}

std::vector<char> FileContent(const char* name) {
  const std::filesystem::path path(reinterpret_cast<const char8_t*>(name));  // UTF-8 on Windows as well
  std::error_code reason;
  Require(*name != '\0', "the path is empty");
  const std::filesystem::file_status status = std::filesystem::status(path, reason);
  Require(status.type() != std::filesystem::file_type::not_found, "no such file");
  Require(std::filesystem::status_known(status), "cannot be read: " + reason.message());
  Require(std::filesystem::is_regular_file(status), "is not a file");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::vector<char> content(file ? std::filesystem::file_size(path) : 0);
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  Require(file.good(), "cannot be read: " + std::generic_category().message(errno));
  return content;
}

}  // namespace
}  // namespace bcdnet

bcdnet_model* bcdnet_read(const void* file, size_t size, int threads) {
  return bcdnet::Guard(
      [&] {
        bcdnet::Require(file != nullptr, "the file must not be NULL");
        return new bcdnet_model(bcdnet::ReadPackedFile({static_cast<const uint8_t*>(file), size}), threads);
      },
      nullptr);
}

bcdnet_model* bcdnet_open(const char* path, int threads) {
  return bcdnet::Guard(
      [&]() -> bcdnet_model* {
        bcdnet::Require(path != nullptr, "the path must not be NULL");
        try {
          const std::vector<char> content = bcdnet::FileContent(path);
          const std::span bytes(reinterpret_cast<const uint8_t*>(content.data()), content.size());
          return new bcdnet_model(bcdnet::ReadPackedFile(bytes), threads);
        } catch (const std::invalid_argument& e) {
          throw std::invalid_argument(path + (": " + std::string(e.what())));
        }
      },
      nullptr);
}

void bcdnet_close(bcdnet_model* model) { delete model; }

const char* bcdnet_error(void) { return bcdnet::error.c_str(); }

const char* bcdnet_version(void) { return BCDNET_VERSION; }

const char* bcdnet_target(const bcdnet_model* model) { return model->session.target().c_str(); }

void bcdnet_input_size(const bcdnet_model* model, int* channels, int* height, int* width) {
  *channels = model->input().channels;
  *height = model->input().height;
  *width = model->input().width;
}

int bcdnet_output_count(const bcdnet_model* model) { return static_cast<int>(model->output_names.size()); }

const char* bcdnet_output_name(const bcdnet_model* model, int output) {
  return model->has_output(output) ? model->output_names[output].c_str() : nullptr;
}

int bcdnet_output_size(const bcdnet_model* model, int output) {
  return model->has_output(output) ? model->output_size(output) : 0;
}

const char* bcdnet_label(const bcdnet_model* model, int index) {
  const bool known = index >= 0 && index < static_cast<int>(model->labels.size());
  return known ? model->labels[index].c_str() : nullptr;
}

int bcdnet_prepare(const bcdnet_model* model, const uint8_t* pixels, int width, int height, int channels, size_t stride,
                   float* image) {
  return bcdnet::Guard(
      [&] {
        model->Prepare(bcdnet::PixelsOf(pixels, width, height, channels, stride), image);
        return 0;
      },
      -1);
}

int bcdnet_run(const bcdnet_model* model, const float* images, size_t count, float* const* outputs) {
  return bcdnet::Guard(
      [&] {
        bcdnet::Require(outputs != nullptr && (images != nullptr || count == 0), "arrays must not be NULL");
        const std::vector<float*> pointers(outputs, outputs + model->output_names.size());
        bcdnet::Require(std::ranges::find(pointers, nullptr) == pointers.end(), "no output may be NULL");
        const bcdnet::Buffer& input = model->input();
        const float* end = images + count * input.channels * input.height * input.width;
        bcdnet::Require(std::all_of(images, end, [](float x) { return std::isfinite(x); }),
                        "every value of the images must be finite");
        model->session.Run(images, static_cast<int64_t>(count), pointers);
        return 0;
      },
      -1);
}

int bcdnet_classify(const bcdnet_model* model, const uint8_t* pixels, int width, int height, int channels,
                    size_t stride, float* probabilities) {
  return bcdnet::Guard(
      [&] {
        bcdnet::Require(probabilities != nullptr, "probabilities must not be NULL");
        std::vector<float> image(size_t{1} * model->input().channels * model->input().height * model->input().width);
        model->Prepare(bcdnet::PixelsOf(pixels, width, height, channels, stride), image.data());
        bcdnet::Softmax(bcdnet::Logits(*model, image.data()), probabilities);
        return 0;
      },
      -1);
}
