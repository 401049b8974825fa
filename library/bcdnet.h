/* bcdnet's C library: reads packed networks (.bcdn files), prepares images as they want them, and runs them.
 *
 * What fails returns NULL or a number other than 0, and bcdnet_error() then says why. A model may be used by any number
 * of threads at once. C, H, W: channels, rows and columns of the network's input. */
#ifndef BCDNET_H
#define BCDNET_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(BCDNET_BUILDING)
#define BCDNET_API __declspec(dllexport)
#elif defined(_WIN32)
#define BCDNET_API __declspec(dllimport)
#else
#define BCDNET_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bcdnet_model bcdnet_model;

/* Reads a packed network from a file, or from the `size` bytes of one, which are needed no longer than the call.
 * path: in UTF-8. threads: how many share the work of an image; 0: as many as there are CPUs. NULL on failure. */
BCDNET_API bcdnet_model* bcdnet_open(const char* path, int threads);
BCDNET_API bcdnet_model* bcdnet_read(const void* file, size_t size, int threads);

/* Frees the model; NULL is allowed. No other thread may use it any more. */
BCDNET_API void bcdnet_close(bcdnet_model* model);

/* Why this thread's last call failed; valid until its next one fails. */
BCDNET_API const char* bcdnet_error(void);

/* The library's version, such as "0.1.0", and the instruction set that a model runs on, such as "AVX2". */
BCDNET_API const char* bcdnet_version(void);
BCDNET_API const char* bcdnet_target(const bcdnet_model* model);

/* The shape of one image as the network takes it. */
BCDNET_API void bcdnet_input_size(const bcdnet_model* model, int* channels, int* height, int* width);

/* How many outputs there are, and of each, from 0 on, its name and how many values it has for an image. Of an output
 * that does not exist the name is NULL, the size 0. The first output holds the logits, one for each class. */
BCDNET_API int bcdnet_output_count(const bcdnet_model* model);
BCDNET_API const char* bcdnet_output_name(const bcdnet_model* model, int output);
BCDNET_API int bcdnet_output_size(const bcdnet_model* model, int output);

/* The name of a class; NULL where the file has none for it. */
BCDNET_API const char* bcdnet_label(const bcdnet_model* model, int index);

/* From the pixels of an image to the network's input, float [C][H][W]: resized, cropped and normalised as the file
 * says, to the last bit as `bcdnet predict` does it.
 * pixels: rows of `width` pixels of 1 (grey), 3 (RGB) or 4 (RGB and something ignored) bytes; a row begins `stride`
 * bytes after the one before, 0: rows follow each other. */
BCDNET_API int bcdnet_prepare(const bcdnet_model* model, const uint8_t* pixels, int width, int height, int channels,
                              size_t stride, float* image);

/* images: float [count][C][H][W], prepared, all of them finite. outputs[i]: room for count * bcdnet_output_size(model,
 * i) values. */
BCDNET_API int bcdnet_run(const bcdnet_model* model, const float* images, size_t count, float* const* outputs);

/* From pixels, as for bcdnet_prepare, to the probability of each class: bcdnet_output_size(model, 0) values. */
BCDNET_API int bcdnet_classify(const bcdnet_model* model, const uint8_t* pixels, int width, int height, int channels,
                               size_t stride, float* probabilities);

#ifdef __cplusplus
}
#endif

#endif
