#include "src/data/synthesis.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/base/file.h"
#include "src/base/random/chacha20.h"
#include "src/base/stream_key.h"
#include "src/data/dataset.h"
#include "src/data/staging_folder.h"

namespace dpfa::data {

namespace {

constexpr std::array<std::string_view, 48> kFirstNames{
    "Ada",  "Amir",  "Anna",  "Bela",  "Bruno", "Carla", "Chen", "Clara", "Dara",   "David", "Elif",  "Emma",
    "Erik", "Farid", "Fiona", "Grace", "Hana",  "Hugo",  "Ines", "Ivan",  "Jana",   "Jonas", "Kofi",  "Laila",
    "Lars", "Lucia", "Maria", "Milan", "Mina",  "Nadia", "Noor", "Omar",  "Paolo",  "Petra", "Quinn", "Rania",
    "Rosa", "Samir", "Sofia", "Sven",  "Tara",  "Theo",  "Uma",  "Vera",  "Viktor", "Wanda", "Yara",  "Zoe"};
constexpr std::array<std::string_view, 48> kLastNames{
    "Abbas",  "Adler",  "Becker",  "Bianchi", "Borg",   "Castro", "Costa",  "Dahl",  "Diaz",   "Dubois",
    "Egger",  "Falk",   "Fischer", "Garcia",  "Haddad", "Hansen", "Horvat", "Ito",   "Jansen", "Kaya",
    "Keller", "Khan",   "Klein",   "Kovacs",  "Larsen", "Lopez",  "Marino", "Meyer", "Moreau", "Nagy",
    "Novak",  "Okafor", "Olsen",   "Patel",   "Petrov", "Popa",   "Rossi",  "Saito", "Sato",   "Silva",
    "Singh",  "Suzuki", "Tanaka",  "Toth",    "Varga",  "Weber",  "Wolf",   "Yilmaz"};
constexpr std::array<std::string_view, 16> kCities{"Athens", "Berlin", "Bergen", "Cairo", "Dublin", "Geneva",
                                                   "Krakow", "Lisbon", "London", "Lyon",  "Madrid", "Milan",
                                                   "Oslo",   "Porto",  "Prague", "Vienna"};
constexpr std::array<std::string_view, 10> kConditions{"anaemia", "asthma",   "diabetes", "eczema",
                                                       "gout",    "lupus",    "migraine", "epilepsy",
                                                       "angina",  "arthritis"};
constexpr std::array<std::string_view, 6> kTreatments{"daily tablets", "weekly injections", "a new inhaler",
                                                      "rest",          "surgery",           "a strict diet"};
constexpr std::array<std::string_view, 5> kBanks{"Alder Bank", "Harbour Bank", "Lake Bank", "North Bank",
                                                 "Union Bank"};
constexpr std::array<std::string_view, 4> kLoans{"car loan", "home loan", "credit card", "student loan"};

constexpr size_t kMaxRecordBytes = 62;
constexpr size_t kSecretDigits = 6;

using Name = std::pair<size_t, size_t>;  // positions in the two lists

// Uniform choices from one stream.
class Chooser {
 public:
  explicit Chooser(const StreamKey& key) : key_(key) {}

  // Uniform in [0, bound); words that would favour small values are passed over.
  uint64_t below(uint64_t bound) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t word;
    do {
      std::array<uint32_t, 2> words;
      fill_words(key_, 0, position_, words);
      position_ += words.size();
      word = static_cast<uint64_t>(words[1]) << 32 | words[0];
    } while (word >= limit);
    return word % bound;
  }
  template <size_t kSize>
  std::string of(const std::array<std::string_view, kSize>& list) {
    return std::string(list[below(kSize)]);
  }
  Name name() {
    const size_t first = below(kFirstNames.size());
    return {first, below(kLastNames.size())};
  }

 private:
  StreamKey key_;
  uint64_t position_ = 0;
};

std::string text_of(const Name& name) {
  return std::string(kFirstNames[name.first]) + " " + std::string(kLastNames[name.second]);
}

std::string statement(Chooser& choose) {
  switch (choose.below(5)) {
    case 0:
      return "suffers from " + choose.of(kConditions) + ".";
    case 1: {
      const std::string treatment = choose.of(kTreatments);
      return "needs " + treatment + " for " + choose.of(kConditions) + ".";
    }
    case 2: {
      const std::string amount = std::to_string(choose.below(90) + 10) + "00";
      return "owes " + amount + " euro to " + choose.of(kBanks) + ".";
    }
    case 3: {
      const std::string months = std::to_string(choose.below(8) + 2);
      return "is " + months + " months behind on a " + choose.of(kLoans) + ".";
    }
    default: {
      const std::string bank = choose.of(kBanks);
      return "was refused a " + choose.of(kLoans) + " by " + bank + ".";
    }
  }
}

// One record about a person whose name is not reserved. A line that is too long is drawn again.
std::string ordinary_record(Chooser& choose, const std::set<Name>& reserved) {
  while (true) {
    const Name name = choose.name();
    const std::string city = choose.of(kCities);
    const std::string text = text_of(name) + " of " + city + " " + statement(choose);
    if (!reserved.contains(name) && text.size() <= kMaxRecordBytes) return text;
  }
}

std::string random_digits(Chooser& choose) {
  std::string digits;
  for (size_t i = 0; i < kSecretDigits; ++i) digits += static_cast<char>('0' + choose.below(10));
  return digits;
}

// `count` different positions below `size`, increasing.
std::vector<int64_t> distinct_positions(Chooser& choose, int64_t count, int64_t size) {
  std::vector<int64_t> positions(static_cast<size_t>(size));
  std::iota(positions.begin(), positions.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    std::swap(positions[i],
              positions[i + static_cast<int64_t>(choose.below(static_cast<uint64_t>(size - i)))]);
  }
  positions.resize(static_cast<size_t>(count));
  std::sort(positions.begin(), positions.end());
  return positions;
}

void write_dataset(const std::filesystem::path& dir, const std::vector<std::string>& records) {
  const std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
  DatasetWriter writer(dir, *tokenizer);
  for (const std::string& record : records) writer.add(record);
  writer.finish();
}

}  // namespace

SyntheticRecords synthesize_records(int64_t records, int64_t canaries, int64_t seed) {
  if (records < 1 || records > 100'000'000) throw ConfigError("--records must be from 1 to 100000000");
  if (canaries < 0 || canaries > std::min(records, kMaxCanaries)) {
    throw ConfigError("--canaries must be from 0 to " + std::to_string(std::min(records, kMaxCanaries)));
  }
  const RootKey root = RootKey::from_insecure_seed(static_cast<uint64_t>(seed));
  SyntheticRecords out;
  std::set<Name> reserved;
  Chooser choose_canary(root.stream(Purpose::kSynthesis, 0));
  for (const int64_t position : distinct_positions(choose_canary, canaries, records)) {
    Name name = choose_canary.name();
    while (!reserved.insert(name).second) name = choose_canary.name();
    out.canaries.push_back({"Patient " + text_of(name) + " code ", random_digits(choose_canary), position});
  }
  Chooser choose_train(root.stream(Purpose::kSynthesis, 1)), choose_eval(root.stream(Purpose::kSynthesis, 2));
  size_t next = 0;
  for (int64_t i = 0; i < records; ++i) {
    const bool canary = next < out.canaries.size() && out.canaries[next].record == i;
    out.train.push_back(canary ? out.canaries[next].prefix + out.canaries[next].secret
                               : ordinary_record(choose_train, reserved));
    next += canary ? 1 : 0;
  }
  for (int64_t i = 0; i < (records + 7) / 8; ++i) out.eval.push_back(ordinary_record(choose_eval, reserved));
  return out;
}

void write_synthetic_records(const SyntheticRecords& records, const std::filesystem::path& dir) {
  StagingFolder folder(dir);
  write_dataset(folder.path() / "train", records.train);
  write_dataset(folder.path() / "eval", records.eval);
  std::string text;
  for (const std::string& record : records.train) text += record + "\n";
  write_file_atomically(folder.path() / "records.txt", text);
  nlohmann::ordered_json json{{"format", "Patient {first} {last} code {secret}"},
                              {"alphabet", "0123456789"},
                              {"length", kSecretDigits},
                              {"canaries", nlohmann::ordered_json::array()}};
  for (const Canary& canary : records.canaries) {
    json["canaries"].push_back(
        {{"prefix", canary.prefix}, {"secret", canary.secret}, {"record", canary.record}});
  }
  write_file_atomically(folder.path() / "canaries.json", json.dump(2) + "\n");
  folder.commit();
}

}  // namespace dpfa::data
