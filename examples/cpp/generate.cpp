// Generates images of classes and writes them as a grid to a PNG file. CMakeLists.txt has the build instructions.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <png.h>
#include <transcdiff.hpp>

namespace {

constexpr char USAGE[] =
    "usage: generate MODEL [--codec CODEC] [--classes 0,1,2] [--seeds 0,1,2] [--steps N] [--guidance G]\n"
    "                [--out grid.png] [--columns N]\n"
    "A codec is the file of a KL-VAE, patch:N or none; the default is the one that the model file describes. Without\n"
    "one, the k*k channels of a latent become k*k grey pixels. Classes are names or numbers. The default seed of image\n"
    "i is i.";

/// Command line arguments.
struct Arguments {
    std::string model;
    std::optional<std::string> codec;
    std::vector<std::string> classes = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    std::vector<std::uint64_t> seeds;
    std::optional<std::uint32_t> steps;
    std::optional<double> guidance;
    std::string out = "grid.png";
    std::size_t columns = 10;
};

/// Contiguous images of height × width × channels bytes.
struct Pixels {
    std::size_t count, height, width, channels;
    std::vector<std::uint8_t> values;
};

/// Token that the signal handler cancels: transcdiff_cancellation_cancel is async-signal-safe.
const transcdiff_cancellation *interrupt_token = nullptr;

extern "C" void on_signal(int) { transcdiff_cancellation_cancel(interrupt_token); }

template <class T>
T integer(const std::string &option, std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) {
        throw std::invalid_argument(option + ": expected an integer in range");
    }
    return value;
}

template <class T>
T positive(const std::string &option, std::string_view text) {
    const T value = integer<T>(option, text);
    return value != 0 ? value : throw std::invalid_argument(option + ": expected a positive integer");
}

/// Splits text at commas.
std::vector<std::string> list(std::string_view text) {
    std::vector<std::string> items;
    for (;;) {
        const auto comma = text.find(',');
        items.emplace_back(text.substr(0, comma));
        if (comma == std::string_view::npos) {
            return items;
        }
        text.remove_prefix(comma + 1);
    }
}

double guidance_scale(const std::string &option, const char *text) {
    char *end = nullptr;
    const double value = std::strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 1.0)) {
        throw std::invalid_argument(option + ": expected a number of at least 1");
    }
    return value;
}

Arguments parse(int argc, char **argv) {
    Arguments a;
    for (int i = 1; i < argc; i++) {
        const std::string option = argv[i];
        if (option.compare(0, 2, "--") != 0 && a.model.empty()) {
            a.model = option;
            continue;
        }
        if (++i >= argc) {
            throw std::invalid_argument(option + ": unknown option, or missing value\n" + USAGE);
        }
        if (option == "--codec" || option == "--vae") {
            a.codec = argv[i];
        } else if (option == "--classes") {
            a.classes = list(argv[i]);
        } else if (option == "--seeds") {
            a.seeds.clear();
            for (const auto &item : list(argv[i])) {
                a.seeds.push_back(integer<std::uint64_t>(option, item));
            }
        } else if (option == "--steps") {
            a.steps = positive<std::uint32_t>(option, argv[i]);
        } else if (option == "--guidance") {
            a.guidance = guidance_scale(option, argv[i]);
        } else if (option == "--out") {
            a.out = argv[i];
        } else if (option == "--columns") {
            a.columns = positive<std::size_t>(option, argv[i]);
        } else {
            throw std::invalid_argument(option + ": unknown option\n" + USAGE);
        }
    }
    if (a.model.empty()) {
        throw std::invalid_argument(USAGE);
    }
    if (a.seeds.empty()) {
        a.seeds.resize(a.classes.size());
        std::iota(a.seeds.begin(), a.seeds.end(), 0);
    }
    return a;
}

/// Converts -1 (black) to 1 (white) to a byte, rounding to nearest with ties to even.
std::uint8_t grey(float value) {
    return static_cast<std::uint8_t>(std::rint(std::clamp((double(value) + 1.0) * 127.5, 0.0, 255.0)));
}

/// Converts latents of k*k channels to grey images: channel k*dy + dx holds the pixels (k*y + dy, k*x + dx).
Pixels depth_to_space(const std::vector<float> &latents, std::size_t count, const transcdiff::ModelInfo &info) {
    const auto channels = info.latent_channels, height = info.latent_height, width = info.latent_width;
    const auto k = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(channels))));
    if (k * k != channels) {
        throw std::invalid_argument("--codec: required unless the latents have 1, 4, 9, 16, ... channels");
    }
    Pixels result{count, k * height, k * width, 1, std::vector<std::uint8_t>(latents.size())};
    for (std::size_t i = 0; i < latents.size(); i++) {
        const auto x = i % width, y = i / width % height;
        const auto channel = i / (width * height) % channels, n = i / (width * height * channels);
        const auto row = n * result.height + k * y + channel / k;
        result.values[row * result.width + k * x + channel % k] = grey(latents[i]);
    }
    return result;
}

/// Generates the images of the arguments.
Pixels generate(const Arguments &a, const transcdiff::CancellationToken &cancellation) {
    const auto model = transcdiff::Model::load({
        a.model,
        a.codec ? std::optional<transcdiff::WeightFile>(*a.codec) : std::nullopt,
    });
    std::cerr << "device: " << model.device() << '\n';

    transcdiff::GenerateOptions options;
    for (const auto &name : a.classes) {
        options.classes.push_back(model.find_class(name));
    }
    options.seeds = a.seeds;
    options.steps = a.steps;
    options.guidance = a.guidance;
    options.cancellation = &cancellation;
    options.progress = [](const transcdiff::Progress &progress) {
        std::cerr << '\r' << std::setw(3) << std::lround(100.0 * progress.fraction) << " %";
        return transcdiff::ControlFlow::continue_;
    };
    transcdiff::OutputSelection selection;
    const auto channels = model.info().image_channels;
    selection.images = channels != 0;
    selection.latents = !selection.images;
    selection.pixel_format = channels == 1 ? transcdiff::PixelFormat::gray8 : transcdiff::PixelFormat::rgb8_hwc;

    auto outputs = model.session().generate(options, selection);
    std::cerr << '\n';
    if (selection.latents) {
        return depth_to_space(outputs.latents, a.seeds.size(), model.info());
    }
    auto &images = outputs.images;
    return {images.count, images.height, images.width, channels, std::move(images.bytes)};
}

/// Writes the images as a grid of `columns` columns.
void write_grid(const std::string &path, const Pixels &from, std::size_t columns) {
    const auto across = std::min(columns, from.count), rows = (from.count + across - 1) / across;
    const auto line = from.width * from.channels, stride = across * line;
    std::vector<std::uint8_t> pixels(rows * from.height * stride);
    for (std::size_t i = 0; i < from.count * from.height; i++) {
        const auto image = i / from.height, y = i % from.height;
        const auto to = (image / across * from.height + y) * stride + image % across * line;
        std::copy_n(&from.values[i * line], line, &pixels[to]);
    }
    png_image png = {};
    png.version = PNG_IMAGE_VERSION;
    png.width = static_cast<png_uint_32>(across * from.width);
    png.height = static_cast<png_uint_32>(rows * from.height);
    png.format = from.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
    if (png_image_write_to_file(&png, path.c_str(), 0, pixels.data(), 0, nullptr) == 0) {
        throw std::runtime_error(path + ": " + png.message);
    }
}

} // namespace

int main(int argc, char **argv) {
    try {
        const Arguments arguments = parse(argc, argv);
        const auto cancellation = transcdiff::CancellationToken::create();
        interrupt_token = cancellation.get();
        const auto previous = std::signal(SIGINT, on_signal);
        if (previous == SIG_IGN) {
            std::signal(SIGINT, SIG_IGN); // As shells start programs in the background.
        }
        const Pixels images = generate(arguments, cancellation);
        std::signal(SIGINT, previous);
        write_grid(arguments.out, images, arguments.columns);
        return EXIT_SUCCESS;
    } catch (const transcdiff::Error &error) {
        std::cerr << '\n' << error.message() << '\n';
        return error.status() == transcdiff::Status::cancelled ? 130 : EXIT_FAILURE;
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return EXIT_FAILURE;
    }
}
