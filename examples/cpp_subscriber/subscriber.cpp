// Prints the sounding objects that rt-avsac publishes: libzmq, nlohmann-json, zlib; C++17.
//   g++ -std=c++17 -O2 subscriber.cpp -o subscriber -lzmq -lz
//   ./subscriber tcp://127.0.0.1:5555 [SOURCE, "" = all] [MASKS, 0 = without end]
// A publisher with keys: set ZMQ_CURVE_SERVERKEY, ZMQ_CURVE_PUBLICKEY and ZMQ_CURVE_SECRETKEY before zmq_connect.
#include <zlib.h>
#include <zmq.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using Bytes = std::vector<std::uint8_t>;
using Json = nlohmann::json;

constexpr std::int64_t kMaxPixels = 1 << 25;  // of all masks of one message
constexpr std::int64_t kMaxPart = 1 << 24;    // bytes

struct Object {
    std::string label;
    double score;
    std::vector<std::int64_t> box;  // x, y, width, height in pixels of the camera image
    Bytes mask;                     // height * width, 0 or 1
};

// Exactly `size` bytes out of all of `data`; a bomb is seen after one byte too many.
Bytes inflate_exactly(const std::uint8_t* data, std::size_t length, std::size_t size) {
    Bytes out(size + 1);
    z_stream stream{};
    if (inflateInit(&stream) != Z_OK) throw std::runtime_error("zlib does not start");
    stream.next_in = const_cast<std::uint8_t*>(data);
    stream.avail_in = static_cast<uInt>(length);
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    const int result = inflate(&stream, Z_FINISH);
    const bool exact = result == Z_STREAM_END && stream.total_out == size && stream.avail_in == 0;
    inflateEnd(&stream);
    if (!exact) throw std::runtime_error("mask: zlib data is not of exactly " + std::to_string(size) + " bytes");
    out.resize(size);
    return out;
}

Bytes unpack(const std::uint8_t* data, std::size_t length, const std::string& enc, std::size_t height,
             std::size_t width, double threshold) {
    const bool bits = enc == "bits" || enc == "bits+zlib";
    if (!bits && enc != "raw" && enc != "u8+zlib") throw std::runtime_error("mask: unknown encoding " + enc);
    const std::size_t row = bits ? (width + 7) / 8 : width;
    const bool packed = enc == "bits+zlib" || enc == "u8+zlib";
    const Bytes plain = packed ? inflate_exactly(data, length, height * row) : Bytes(data, data + length);
    if (plain.size() != height * row) throw std::runtime_error("mask: wrong length");
    Bytes mask(height * width);
    for (std::size_t y = 0; y < height; ++y) {
        for (std::size_t x = 0; x < width; ++x) {
            const std::uint8_t byte = plain[y * row + (bits ? x / 8 : x)];
            mask[y * width + x] = bits ? byte >> (7 - x % 8) & 1 : enc == "raw" ? byte != 0 : byte >= threshold * 255;
        }
    }
    return mask;
}

// Every length is checked before memory is taken; std::exception for bytes that are no mask message of version 1.
std::vector<Object> objects_of(const Json& header, const Bytes& payload) {
    if (header.at("version").get<std::int64_t>() != 1 || header.at("schema") != "rt-avsac.masks")
        throw std::runtime_error("not a mask message of version 1");
    const auto height = header.at("mask").at("height").get<std::int64_t>();
    const auto width = header.at("mask").at("width").get<std::int64_t>();
    const auto count = static_cast<std::int64_t>(header.at("objects").size());
    if (height < 1 || width < 1 || height > kMaxPixels || width > kMaxPixels || height * width > kMaxPixels ||
        height * width * count > kMaxPixels)
        throw std::runtime_error("masks are too large");
    std::vector<Object> objects;
    for (const Json& entry : header.at("objects")) {
        const auto off = entry.at("off").get<std::int64_t>(), len = entry.at("len").get<std::int64_t>();
        const auto total = static_cast<std::int64_t>(payload.size());
        if (off < 0 || len < 0 || off > total || len > total - off)
            throw std::runtime_error("object lies outside the payload");
        objects.push_back({entry.at("label"), entry.at("score"), entry.at("bbox"),
                           unpack(payload.data() + off, static_cast<std::size_t>(len), entry.at("enc"),
                                  static_cast<std::size_t>(height), static_cast<std::size_t>(width),
                                  header.at("model").at("threshold"))});
    }
    return objects;
}

// All parts of one message; false if there is none (ZMQ_DONTWAIT).
bool receive(void* socket, std::vector<Bytes>& parts, int flags) {
    parts.clear();
    for (int more = 1; more;) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, flags) < 0) {
            zmq_msg_close(&part);
            return false;
        }
        const auto* data = static_cast<const std::uint8_t*>(zmq_msg_data(&part));
        if (parts.size() < 3) parts.emplace_back(data, data + zmq_msg_size(&part));  // further parts are ignored
        more = zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
    return true;
}

int main(int argc, char** argv) {
    if (argc < 2) {
        std::cerr << "usage: subscriber ADDRESS [SOURCE] [MASKS]\n";
        return 2;
    }
    const std::string source = argc > 2 ? argv[2] : "";
    const std::string prefix = source.empty() ? "rtavsac/v1/" : "rtavsac/v1/" + source + "/masks/";
    const std::string ending = "/masks/";
    long left = argc > 3 ? std::atol(argv[3]) : 0;

    void* context = zmq_ctx_new();
    void* socket = zmq_socket(context, ZMQ_SUB);
    const int linger = 0, queue = 8;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &queue, sizeof queue);
    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &kMaxPart, sizeof kMaxPart);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, prefix.data(), prefix.size());
    if (zmq_connect(socket, argv[1]) != 0) {
        std::cerr << argv[1] << ": " << zmq_strerror(zmq_errno()) << "\n";
        return 4;
    }

    // A slow program calls receive(…, ZMQ_DONTWAIT) until it is false and takes the last message: the queue holds old
    // ones. This one prints at once, so it takes every message.
    for (std::vector<Bytes> parts; receive(socket, parts, 0);) {
        if (parts.size() < 3) continue;
        const std::string topic(parts[0].begin(), parts[0].end());
        if (topic.size() < ending.size() || topic.compare(topic.size() - ending.size(), ending.size(), ending) != 0)
            continue;
        try {
            const Json header = Json::parse(parts[1]);
            std::string line = "mask " + std::to_string(header.at("seq").get<std::int64_t>());
            for (const Object& object : objects_of(header, parts[2])) {
                std::int64_t area = 0;
                for (const std::uint8_t pixel : object.mask) area += pixel;
                line += " | " + object.label + " " + std::to_string(area) + " px at";
                for (const std::int64_t value : object.box) line += " " + std::to_string(value);
            }
            std::cout << line << std::endl;
        } catch (const std::exception& error) {
            std::cerr << "refused: " << error.what() << std::endl;
            continue;
        }
        if (left > 0 && --left == 0) break;
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}
