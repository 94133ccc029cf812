// What `dpfa ledger` prints of one ledger: JSON for programs, text for people.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "accounting/certificate.h"
#include "accounting/ledger_verify.h"

namespace dpfa::cli {

// "inf" for an infinite value.
nlohmann::json finite_or_text(double value);
// Six significant digits.
std::string short_text(double value);

nlohmann::json ledger_json(const accounting::LedgerReport& report);
nlohmann::json spending_json(const accounting::LedgerReport& report);
nlohmann::json certificate_json(const accounting::Certificate& certificate);

// Of the epsilon to the ranks that may collude, and of that to everybody who is no rank: equal where the
// noise is no rank's share.
struct Certificates {
  accounting::Certificate of_ranks, of_outsiders;
};

void print_spending(const accounting::LedgerReport& report);
void print_summary(const accounting::LedgerReport& report);
// The whole statement for a third party. `heads`: how many digests from elsewhere the ledger was compared
// with.
void print_certificate(const accounting::LedgerReport& report, const Certificates& certificates,
                       size_t heads);

}  // namespace dpfa::cli
