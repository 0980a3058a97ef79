// Behaviours out of JSON: of plain values only, as producers write nearly all. Any other value, whatever is unusual about
// it, is left to a full decoder.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstring>

namespace {

// XXH3-64 with its default secret and seed 0, of at most 128 bytes (xxHash, doc/xxhash_spec.md). Longer ones are not plain.
constexpr int64_t MOST = 128;

constexpr uint8_t SECRET[136] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9,
    0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78,
    0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6,
    0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71,
    0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3,
    0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8,
    0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3,
};
constexpr uint64_t PRIME_1 = 0x9E3779B185EBCA87, PRIME_2 = 0xC2B2AE3D27D4EB4F, PRIME_3 = 0x165667B19E3779F9;
constexpr uint64_t MIX_1 = 0x165667919E3779F9, MIX_2 = 0x9FB21C651E98DF25;

inline uint32_t read32(const uint8_t *at) {
    uint32_t value;
    std::memcpy(&value, at, 4);
    return value;
}

inline uint64_t read64(const uint8_t *at) {
    uint64_t value;
    std::memcpy(&value, at, 8);
    return value;
}

inline uint64_t secret(int at) { return read64(SECRET + at); }

inline uint64_t rotated(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

inline uint64_t folded(uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t avalanche(uint64_t hash) {
    hash = (hash ^ hash >> 37) * MIX_1;
    return hash ^ hash >> 32;
}

inline uint64_t long_avalanche(uint64_t hash) {
    hash = (hash ^ hash >> 33) * PRIME_2;
    hash = (hash ^ hash >> 29) * PRIME_3;
    return hash ^ hash >> 32;
}

inline uint64_t mixed(const uint8_t *at, int place) {
    return folded(read64(at) ^ secret(place), read64(at + 8) ^ secret(place + 8));
}

uint64_t xxh3(const uint8_t *text, int64_t length) {
    if (length > 16) {
        uint64_t sum = static_cast<uint64_t>(length) * PRIME_1;
        const uint8_t *end = text + length;
        for (int64_t i = (length - 1) / 32; i >= 0; --i) {
            const int place = static_cast<int>(32 * i);
            sum += mixed(text + 16 * i, place) + mixed(end - 16 * (i + 1), place + 16);
        }
        return avalanche(sum);
    }
    if (length > 8) {
        const uint64_t low = read64(text) ^ (secret(24) ^ secret(32));
        const uint64_t high = read64(text + length - 8) ^ (secret(40) ^ secret(48));
        return avalanche(static_cast<uint64_t>(length) + __builtin_bswap64(low) + high + folded(low, high));
    }
    if (length >= 4) {
        uint64_t hash = read32(text + length - 4) + (static_cast<uint64_t>(read32(text)) << 32);
        hash ^= secret(8) ^ secret(16);
        hash ^= rotated(hash, 49) ^ rotated(hash, 24);
        hash *= MIX_2;
        hash = (hash ^ ((hash >> 35) + static_cast<uint64_t>(length))) * MIX_2;
        return hash ^ hash >> 28;
    }
    if (length == 0) return long_avalanche(secret(56) ^ secret(64));
    const uint32_t parts = static_cast<uint32_t>(text[0]) << 16 | static_cast<uint32_t>(text[length >> 1]) << 24 |
                           text[length - 1] | static_cast<uint32_t>(length) << 8;
    return long_avalanche(parts ^ static_cast<uint64_t>(read32(SECRET) ^ read32(SECRET + 4)));
}

struct Text {
    const uint8_t *at = nullptr;
    int64_t length = -1;  // −1 where there is none

    bool is(const char *other) const {
        return length == static_cast<int64_t>(std::strlen(other)) && std::memcmp(at, other, length) == 0;
    }
};

// Reads a value from its beginning; each step says whether it found what it looked for.
struct Reader {
    const uint8_t *at, *end;

    void pass_spaces() {
        while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) ++at;
    }

    bool take(uint8_t wanted) {
        pass_spaces();
        if (at == end || *at != wanted) return false;
        ++at;
        return true;
    }

    // A string of ASCII without escapes, that was not there before.
    bool take_text(Text &text) {
        if (text.length >= 0 || !take('"')) return false;
        text.at = at;
        while (at < end && *at != '"') {
            if (*at < 0x20 || *at >= 0x80 || *at == '\\') return false;
            ++at;
        }
        text.length = at - text.at;
        return at++ < end && text.length <= MOST;
    }

    // Digits of a whole number of at most 14, that was not there before.
    bool take_number(int64_t &number) {
        if (number >= 0) return false;
        pass_spaces();
        const uint8_t *begin = at;
        int64_t value = 0;
        while (at < end && *at >= '0' && *at <= '9' && at - begin < 15) value = 10 * value + (*at++ - '0');
        number = value;
        return at > begin && at - begin < 15 && (*begin != '0' || at - begin == 1);
    }
};

struct Behavior {
    Text user, item, category, action;
    int64_t ts = -1;

    bool read(Reader reader) {
        if (!reader.take('{')) return false;
        do {
            Text name;
            if (!reader.take_text(name) || !reader.take(':')) return false;
            const bool taken = name.is("user")       ? reader.take_text(user)
                               : name.is("item")     ? reader.take_text(item)
                               : name.is("ts")       ? reader.take_number(ts)
                               : name.is("category") ? reader.take_text(category)
                               : name.is("action")   ? reader.take_text(action)
                                                     : false;
            if (!taken) return false;
        } while (reader.take(','));
        if (!reader.take('}')) return false;
        reader.pass_spaces();
        return reader.at == reader.end && user.length > 0 && item.length > 0 && ts >= 0;
    }

    // As `state.behavior.BEHAVIOR` has it.
    void pack(uint8_t *out) const {
        static const uint8_t view[] = "view";
        const uint64_t item_hash = xxh3(item.at, item.length);
        const uint64_t item_key = item_hash ? item_hash : 1;
        const auto named = [](const Text &text, uint64_t mask) {
            const uint64_t key = text.length ? xxh3(text.at, text.length) & mask : 0;
            return text.length && !key ? 1 : key;
        };
        const auto category_key = static_cast<uint32_t>(category.length > 0 ? named(category, 0xFFFFFFFF) : 0);
        const auto action_key = static_cast<uint16_t>(named(action.length < 0 ? Text{view, 4} : action, 0xFFFF));
        std::memcpy(out, &item_key, 8);
        std::memcpy(out + 8, &category_key, 4);
        std::memcpy(out + 12, &action_key, 2);
        std::memcpy(out + 14, &ts, 8);
    }
};

}  // namespace

// values: a list of n bytes, or of what is none; keys: likewise, or None not to look at them. plain (n) says which values are
// plain behaviours, and of the user that the key names; packed (n * 22) is written where they are. The caller holds the
// interpreter.
extern "C" void read_behaviors(PyObject *values, PyObject *keys, uint8_t *packed, uint8_t *plain) {
    const Py_ssize_t count = PyList_GET_SIZE(values);
    for (Py_ssize_t i = 0; i < count; ++i) {
        plain[i] = 0;
        PyObject *value = PyList_GET_ITEM(values, i);
        if (!PyBytes_Check(value)) continue;
        const auto *text = reinterpret_cast<const uint8_t *>(PyBytes_AS_STRING(value));
        Behavior behavior;
        if (!behavior.read(Reader{text, text + PyBytes_GET_SIZE(value)})) continue;
        if (keys != Py_None) {
            PyObject *key = PyList_GET_ITEM(keys, i);
            if (!PyBytes_Check(key) || PyBytes_GET_SIZE(key) != behavior.user.length ||
                std::memcmp(PyBytes_AS_STRING(key), behavior.user.at, behavior.user.length) != 0)
                continue;
        }
        behavior.pack(packed + 22 * i);
        plain[i] = 1;
    }
}
