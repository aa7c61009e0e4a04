// emulation [few|plain|all] [loss|noise|tokens|limits ...]: runs the cases on the device that TGLO_EMULATED_DEVICE names.
#include <stdio.h>
#include <string.h>

#include "cases.h"

int main(int count, char** arguments) {
  using namespace driver;
  const char* form = count > 1 ? arguments[1] : "plain";
  Amount amount = {27, 40000, false, 24, 24};
  if (!strcmp(form, "few")) amount = {3, 3000, false, 6, 6};
  if (!strcmp(form, "all")) amount = {720, 300000, true, 200, 200};
  const auto wanted = [&](const char* name) {
    for (int k = 2; k < count; ++k)
      if (!strcmp(arguments[k], name)) return true;
    return count <= 2;
  };
  if (wanted("loss")) loss_cases(amount);
  if (count > 2 && wanted("large")) {
    amount.loss_cases = 0;
    amount.large = true;
    loss_cases(amount);
  }
  if (wanted("noise")) noise_cases(amount);
  if (wanted("tokens")) token_cases(amount);
  if (wanted("limits")) limit_cases();
  return finish();
}
