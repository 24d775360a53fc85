#include "archive/source_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ts_infer {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::set<std::string> restricted(const std::string& source) {
  return scan_source(source).restricted;
}

TEST(SourceScanTest, FindsAnOperatorBehindADot) {
  EXPECT_THAT(restricted("torch.save(x, y)"), ElementsAre("aten::save"));
  EXPECT_THAT(restricted("a = [x.from_file(1), ops.c10d.send(x)]"),
              ElementsAre("aten::from_file", "c10d::"));
  EXPECT_THAT(restricted("1.5e3.save(x)"), ElementsAre("aten::save"));
  EXPECT_THAT(restricted("x.  # of it\n  save(y)"), ElementsAre("aten::save"));
  EXPECT_THAT(restricted("x = '''\n'''.save(y)"), ElementsAre("aten::save"));
}

TEST(SourceScanTest, FindsAnOperatorByItsNameAsText) {
  EXPECT_THAT(restricted("getattr(x, 'save')"), ElementsAre("aten::save"));
  EXPECT_EQ(restricted("getattr(x, 'sa\\x76e')").size(), all_restricted_operators().size());
}

TEST(SourceScanTest, OtherWordsAreNone) {
  EXPECT_THAT(restricted("save(x); saved.x; x.saves(y); 'x.save'; \"torch.save(\""), IsEmpty());
  EXPECT_THAT(restricted("# torch.save(x)\nx = 'a\\'.save'\n\"\"\"\nx.save()\n\"\"\""), IsEmpty());
}

TEST(SourceScanTest, EndsWhereverTheSourceDoes) {
  const std::string source = "getattr(x, 'save')\n\"\"\"a\\\n  b.c(1.5, [2]) # d\n";
  for (std::size_t size = 0; size <= source.size(); ++size) scan_source(source.substr(0, size));
  EXPECT_THAT(restricted("x = 'abc\\"), IsEmpty());
}

TEST(SourceScanTest, CountsWhatTheParserRecursesInto) {
  const auto nesting = [](const std::string& source) { return scan_source(source).nesting; };
  EXPECT_EQ(nesting(""), 0u);
  EXPECT_GE(nesting(std::string(50, '(') + std::string(50, ')')), 50u);
  std::string sum = "x";
  std::string list = "[";
  std::string statements;
  std::string lines = "x";
  std::string blocks;
  for (int i = 0; i < 50; ++i) {
    sum += " + x";
    list += "x + x, ";
    statements += "x = (x + x)\n";
    lines += " \\\n + x";
    blocks += std::string(2 * i, ' ') + "if x:\n";
  }
  EXPECT_GE(nesting(sum), 50u);
  EXPECT_GE(nesting(lines), 50u);
  EXPECT_GE(nesting(blocks), 50u);
  EXPECT_LE(nesting(list + "]"), 5u);
  EXPECT_LE(nesting(statements), 5u);
}

}  // namespace
}  // namespace ts_infer
