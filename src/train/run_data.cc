#include "src/train/run_data.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>

#include "src/base/check.h"
#include "src/base/error.h"
#include "src/train/collective.h"

namespace dpfa::train {

void open_data(const plan::DataConfig& config, int rank, std::optional<data::Dataset>& train,
               std::optional<data::Dataset>& eval) {
  if (config.train.empty())
    throw ConfigError("data.train is missing: a folder written by 'dpfa data prepare'");
  train = data::Dataset::open(config.train_of(rank));
  if (config.eval.empty()) return;
  if (!config.eval_is_public)
    throw ConfigError(
        "data.eval is given but data.eval_is_public is not true: held-out records count as private, "
        "and a loss on them would be an unaccounted release; set eval_is_public = true only where "
        "they are public, or remove data.eval");
  eval = data::Dataset::open(config.eval);
  if (eval->vocab_size() != train->vocab_size())
    throw StateError("data.train and data.eval were prepared with different tokenizers");
}

std::string name_data(const plan::DataConfig& config, const data::Dataset& train,
                      comm::Communicator& communicator) {
  if (!config.each_rank_has_its_own()) return train.id();
  struct Named {
    std::array<char, 32> id;
    int64_t vocab;
  };
  Named mine{{}, train.vocab_size()}, first{}, one{};
  DPFA_CHECK(train.id().size() == mine.id.size());
  std::copy(train.id().begin(), train.id().end(), mine.id.begin());
  const auto bytes = communicator.all_gather(std::as_bytes(std::span(&mine, 1)));
  std::memcpy(&first, bytes.data(), sizeof(Named));
  std::string name;
  for (int rank = 0; rank < communicator.size(); ++rank) {
    std::memcpy(&one, bytes.data() + sizeof(Named) * static_cast<size_t>(rank), sizeof(Named));
    const std::string id(one.id.begin(), one.id.end()), who = "rank " + std::to_string(rank);
    if (one.vocab != first.vocab)
      throw AgreedError(ExitCode::kState,
                        "data.train of " + who + " was prepared with another tokenizer than that of rank 0");
    if (name.find(id) != std::string::npos)
      throw AgreedError(ExitCode::kState,
                        who +
                            " was given the data set of another rank: with {rank} in data.train each record "
                            "must be in the folder of one rank alone");
    name += (rank == 0 ? "" : "+") + id;
  }
  return name;
}

bool counts_all_of(const std::string& counted, const std::string& present) {
  const std::string names = "+" + counted + "+";
  std::istringstream ids(present);
  bool all = !present.empty();
  for (std::string id; std::getline(ids, id, '+');)
    all = all && names.find("+" + id + "+") != std::string::npos;
  return all;
}

}  // namespace dpfa::train
