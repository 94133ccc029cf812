#pragma once

#include <string>

namespace dpfa {

// The model name in /proc/cpuinfo; "unknown processor" where there is none.
std::string processor_name();

}  // namespace dpfa
