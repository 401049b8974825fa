/* Names the classes of an image: classify MODEL.bcdn IMAGE.ppm
 *
 * The image is a binary PPM (P6, 8 bits), as `convert photo.jpg photo.ppm` or `ffmpeg` writes it. A program of yours
 * has its pixels from a camera or a decoder instead, and needs no more of this than the calls of bcdnet. */
#include <bcdnet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* what, const char* why) {
  fprintf(stderr, "error: %s: %s\n", what, why);
  return 2;
}

/* The next number of a PPM file's header, past blanks and comments; 0 if there is none. */
static int next_number(FILE* file) {
  int number = 0;
  int next = fgetc(file);
  while (isspace(next) || next == '#') {
    if (next == '#') {
      while (next != '\n' && next != EOF) next = fgetc(file);
    }
    next = fgetc(file);
  }
  ungetc(next, file);
  return fscanf(file, "%d", &number) == 1 ? number : 0;
}

/* RGB bytes of a PPM file, or NULL. */
static uint8_t* read_ppm(const char* path, int* width, int* height) {
  uint8_t* pixels = NULL;
  FILE* file = fopen(path, "rb");
  if (file == NULL) return NULL;
  const int is_ppm = fgetc(file) == 'P' && fgetc(file) == '6';
  *width = next_number(file);
  *height = next_number(file);
  if (is_ppm && next_number(file) == 255 && fgetc(file) != EOF && *width > 0 && *height > 0 && *width < 32768 &&
      *height < 32768) {
    const size_t size = (size_t)3 * *width * *height;
    pixels = malloc(size);
    if (pixels != NULL && fread(pixels, 1, size, file) != size) {
      free(pixels);
      pixels = NULL;
    }
  }
  fclose(file);
  return pixels;
}

/* Prints the five most probable classes, best first. */
static void print_best(const bcdnet_model* model, const float* probabilities) {
  const int classes = bcdnet_output_size(model, 0);
  int* taken = calloc(classes, sizeof(int));
  for (int rank = 0; taken != NULL && rank < 5 && rank < classes; ++rank) {
    int best = -1;
    for (int i = 0; i < classes; ++i) {
      if (!taken[i] && (best < 0 || probabilities[i] > probabilities[best])) best = i;
    }
    taken[best] = 1;
    const char* label = bcdnet_label(model, best);
    if (label != NULL) {
      printf("%6.2f %%  %s\n", 100 * probabilities[best], label);
    } else {
      printf("%6.2f %%  %d\n", 100 * probabilities[best], best);
    }
  }
  free(taken);
}

int main(int argc, char** argv) {
  if (argc != 3) return fail("usage", "classify MODEL.bcdn IMAGE.ppm");
  bcdnet_model* model = bcdnet_open(argv[1], 1);
  if (model == NULL) return fail("model", bcdnet_error());
  int width, height;
  uint8_t* pixels = read_ppm(argv[2], &width, &height);
  float* probabilities = malloc(bcdnet_output_size(model, 0) * sizeof(float));
  int status = 2;
  if (pixels == NULL) {
    fail(argv[2], "is no binary PPM of 8 bits that can be read");
  } else if (bcdnet_classify(model, pixels, width, height, 3, 0, probabilities) != 0) {
    fail(argv[2], bcdnet_error());
  } else {
    print_best(model, probabilities);
    status = 0;
  }
  free(probabilities);
  free(pixels);
  bcdnet_close(model);
  return status;
}
