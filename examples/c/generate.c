/*
 * Generates images of classes and writes them as a grid to a PNG file. README.md has the build instructions.
 */

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>
#include <transcdiff.h>

#define USAGE \
    "usage: generate MODEL [--codec CODEC] [--classes 0,1,2] [--seeds 0,1,2] [--steps N] [--guidance G]\n" \
    "                [--out grid.png] [--columns N]\n" \
    "A codec is the file of a KL-VAE, patch:N or none; the default is the one that the model file describes. Without\n" \
    "one, the k*k channels of a latent become k*k grey pixels. Classes are names or numbers. The default seed of image\n" \
    "i is i.\n"

/* Command line arguments. */
typedef struct {
    const char *model, *codec, *out, *classes;
    uint64_t *seeds;
    size_t images, seed_count;
    unsigned long columns, steps; /* 0: not set */
    double guidance;              /* 0: not set */
} arguments;

/* Contiguous images of height x width x channels bytes. */
typedef struct {
    size_t count, height, width, channels;
    uint8_t *pixels;
} images;

/* Token that the signal handler cancels: transcdiff_cancellation_cancel is async-signal-safe. */
static transcdiff_cancellation *interrupt_token;

static void on_signal(int signal_number) {
    (void)signal_number;
    transcdiff_cancellation_cancel(interrupt_token);
}

static void fail(const char *subject, const char *reason) {
    fprintf(stderr, "%s: %s\n", subject, reason);
    exit(EXIT_FAILURE);
}

/* Allocates `count` elements, set to zero; exits on failure. */
static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count == 0 ? 1 : count, size);
    if (memory == NULL) {
        fail("generate", "out of memory");
    }
    return memory;
}

/*
 * Exits with the library's message if a call failed. The error is passed by address, because its value is known only after
 * the call, which is evaluated as another argument.
 */
static void check(transcdiff_status status, transcdiff_error *const *error) {
    if (status == TRANSCDIFF_OK) {
        return;
    }
    fprintf(stderr, "\n%s\n", *error == NULL ? transcdiff_status_name(status) : transcdiff_error_message(*error));
    transcdiff_error_free(*error);
    exit(status == TRANSCDIFF_CANCELLED ? 130 : EXIT_FAILURE);
}

/* Parses the integer at the start of `text`, at most `max`; sets `*end` to the text after it. */
static unsigned long long integer(const char *option, const char *text, unsigned long long max, char **end) {
    errno = 0;
    unsigned long long value = strtoull(text, end, 10);
    if (*text < '0' || *text > '9' || errno != 0 || value > max) {
        fail(option, "expected an integer in range");
    }
    return value;
}

static unsigned long positive(const char *option, const char *text) {
    char *end;
    unsigned long value = (unsigned long)integer(option, text, UINT32_MAX, &end);
    if (value == 0 || *end != '\0') {
        fail(option, "expected a positive integer");
    }
    return value;
}

/* Parses comma-separated integers, each at most `max`. */
static uint64_t *list(const char *option, const char *text, unsigned long long max, size_t *count) {
    uint64_t *values = allocate(strlen(text) / 2 + 1, sizeof *values);
    char *end = (char *)text;
    *count = 0;
    for (;;) {
        values[(*count)++] = integer(option, end, max, &end);
        if (*end == '\0') {
            return values;
        }
        if (*end++ != ',') {
            fail(option, "expected comma-separated integers");
        }
    }
}

static double guidance_scale(const char *option, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 1.0)) {
        fail(option, "expected a number of at least 1");
    }
    return value;
}

static arguments parse(int argc, char **argv) {
    arguments a = {NULL, NULL, "grid.png", "0,1,2,3,4,5,6,7,8,9", NULL, 1, 0, 0, 0, 0.0};
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        if (strncmp(option, "--", 2) != 0 && a.model == NULL) {
            a.model = option;
            continue;
        }
        if (++i >= argc) {
            fail(option, "unknown option, or missing value\n" USAGE);
        }
        if (strcmp(option, "--codec") == 0 || strcmp(option, "--vae") == 0) {
            a.codec = argv[i];
        } else if (strcmp(option, "--classes") == 0) {
            a.classes = argv[i];
        } else if (strcmp(option, "--seeds") == 0) {
            free(a.seeds);
            a.seeds = list(option, argv[i], UINT64_MAX, &a.seed_count);
        } else if (strcmp(option, "--steps") == 0) {
            a.steps = positive(option, argv[i]);
        } else if (strcmp(option, "--guidance") == 0) {
            a.guidance = guidance_scale(option, argv[i]);
        } else if (strcmp(option, "--out") == 0) {
            a.out = argv[i];
        } else if (strcmp(option, "--columns") == 0) {
            a.columns = positive(option, argv[i]);
        } else {
            fail(option, "unknown option, or missing value\n" USAGE);
        }
    }
    if (a.model == NULL) {
        fail("MODEL", USAGE);
    }
    for (const char *comma = a.classes; (comma = strchr(comma, ',')) != NULL; comma++) {
        a.images++;
    }
    if (a.seeds == NULL) {
        a.seeds = allocate(a.images, sizeof *a.seeds);
        for (a.seed_count = 0; a.seed_count < a.images; a.seed_count++) {
            a.seeds[a.seed_count] = a.seed_count;
        }
    }
    if (a.seed_count != a.images) {
        fail("--seeds", "expected one seed per class");
    }
    return a;
}

static int32_t show_progress(const transcdiff_progress *progress, void *user_data) {
    (void)user_data;
    fprintf(stderr, "\r%3.0f %%", 100.0 * progress->fraction);
    return 0;
}

static void show_message(uint32_t level, const char *message, void *user_data) {
    (void)user_data;
    fprintf(stderr, "%s%s\n", level == TRANSCDIFF_LOG_WARNING ? "warning: " : "", message);
}

static transcdiff_model *load(const arguments *a) {
    transcdiff_load_options options;
    transcdiff_error *error = NULL;
    check(transcdiff_load_options_init(&options, sizeof options), &error);
    options.model_path = a->model;
    options.codec_path = a->codec;
    options.log = show_message;
    transcdiff_model *model;
    check(transcdiff_model_load(&options, &model, &error), &error);
    return model;
}

/* Converts -1 (black) to 1 (white) to a byte, rounding to nearest with ties to even. */
static uint8_t grey(float value) {
    return (uint8_t)rint(fmin(fmax(((double)value + 1.0) * 127.5, 0.0), 255.0));
}

/* Converts latents of k*k channels to grey images: channel k*dy + dx holds the pixels (k*y + dy, k*x + dx). */
static images depth_to_space(const float *latents, size_t count, const transcdiff_model_info *info) {
    size_t channels = info->latent_channels, height = info->latent_height, width = info->latent_width;
    size_t k = (size_t)(sqrt((double)channels) + 0.5);
    if (k * k != channels) {
        fail("--codec", "required unless the latents have 1, 4, 9, 16, ... channels");
    }
    images result = {count, k * height, k * width, 1, allocate(count * channels, height * width)};
    const float *value = latents;
    for (size_t n = 0; n < count; n++) {
        for (size_t channel = 0; channel < channels; channel++) {
            for (size_t y = 0; y < height; y++) {
                for (size_t x = 0; x < width; x++) {
                    size_t row = n * result.height + k * y + channel / k;
                    result.pixels[row * result.width + k * x + channel % k] = grey(*value++);
                }
            }
        }
    }
    return result;
}

/* Finds the classes of the arguments by their names or numbers. */
static uint32_t *find_classes(const arguments *a, const transcdiff_model *model) {
    transcdiff_error *error = NULL;
    uint32_t *classes = allocate(a->images, sizeof *classes);
    char *names = allocate(strlen(a->classes) + 1, 1), *name = names;
    strcpy(names, a->classes);
    for (size_t i = 0; i < a->images; i++) {
        size_t length = strcspn(name, ",");
        name[length] = '\0';
        check(transcdiff_model_find_class(model, name, &classes[i], &error), &error);
        name += length + 1;
    }
    free(names);
    return classes;
}

/* Generates the images of the arguments. */
static images generate(const arguments *a, const transcdiff_model *model) {
    transcdiff_error *error = NULL;
    transcdiff_model_info info;
    info.struct_size = sizeof info;
    check(transcdiff_model_get_info(model, &info, &error), &error);
    transcdiff_generate_options options;
    check(transcdiff_generate_options_init(model, &options, sizeof options), &error);
    options.images = a->images;
    uint32_t *classes = find_classes(a, model);
    options.classes = classes;
    options.seeds = a->seeds;
    options.steps = a->steps == 0 ? options.steps : (uint32_t)a->steps;
    options.guidance = a->guidance == 0.0 ? options.guidance : a->guidance;
    options.cancellation = interrupt_token;
    options.progress = show_progress;
    transcdiff_outputs outputs;
    check(transcdiff_outputs_init(&outputs, sizeof outputs), &error);

    images result = {a->images, info.image_height, info.image_width, info.image_channels, NULL};
    float *latents = NULL;
    if (info.image_channels != 0) {
        outputs.pixel_format = info.image_channels == 1 ? TRANSCDIFF_GRAY8 : TRANSCDIFF_RGB8_HWC;
        size_t size = transcdiff_image_bytes(outputs.pixel_format, result.height, result.width);
        outputs.images = result.pixels = allocate(result.count, size);
        outputs.images_size = result.count * size;
    } else {
        size_t size = info.latent_channels * info.latent_height * info.latent_width * sizeof(float);
        outputs.latents = latents = allocate(a->images, size);
        outputs.latents_size = a->images * size;
    }
    transcdiff_session *session;
    check(transcdiff_session_new(model, &session, &error), &error);
    check(transcdiff_session_generate(session, &options, &outputs, &error), &error);
    fprintf(stderr, "\n");
    transcdiff_session_free(session);
    free(classes);
    if (latents != NULL) {
        result = depth_to_space(latents, a->images, &info);
        free(latents);
    }
    return result;
}

/* Writes the images as a grid of `columns` columns. */
static void write_grid(const char *path, const images *from, size_t columns) {
    size_t across = columns < from->count ? columns : from->count;
    size_t rows = (from->count + across - 1) / across;
    size_t line = from->width * from->channels, stride = across * line;
    uint8_t *pixels = allocate(rows * from->height, stride);
    for (size_t i = 0; i < from->count; i++) {
        for (size_t y = 0; y < from->height; y++) {
            uint8_t *to = pixels + (i / across * from->height + y) * stride + i % across * line;
            memcpy(to, from->pixels + (i * from->height + y) * line, line);
        }
    }
    png_image png;
    memset(&png, 0, sizeof png);
    png.version = PNG_IMAGE_VERSION;
    png.width = (png_uint_32)(across * from->width);
    png.height = (png_uint_32)(rows * from->height);
    png.format = from->channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
    if (!png_image_write_to_file(&png, path, 0, pixels, 0, NULL)) {
        fail(path, png.message);
    }
    free(pixels);
}

int main(int argc, char **argv) {
    arguments a = parse(argc, argv);
    interrupt_token = transcdiff_cancellation_new();
    void (*previous)(int) = signal(SIGINT, on_signal);
    if (previous == SIG_IGN) {
        signal(SIGINT, SIG_IGN); /* As shells start programs in the background. */
    }
    transcdiff_model *model = load(&a);
    images result = generate(&a, model);
    write_grid(a.out, &result, a.columns == 0 ? 10 : a.columns);
    free(result.pixels);
    transcdiff_model_free(model);
    signal(SIGINT, previous);
    transcdiff_cancellation_free(interrupt_token);
    free(a.seeds);
    return EXIT_SUCCESS;
}
