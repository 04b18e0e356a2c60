//! What nextest's report says: how many tests ran, which failed, and the end of what those printed.
//!
//! The format is JUnit's, as nextest writes it (`.config/nextest.toml`, profile.*.junit.path): one `<testcase>` element per test.

/// How many lines of a failed test's messages are repeated at the end.
const LINES_SHOWN: usize = 30;

/// How many tests ran and how many of them failed, from the report's first element.
pub fn counts(report: &str) -> Option<(u32, u32)> {
    let element = &report[report.find("<testsuites ")?..];
    let element = &element[..element.find('>')?];
    let number = |name: &str| -> Option<u32> { attribute(element, name)?.parse().ok() };
    Some((number("tests")?, number("failures")? + number("errors")?))
}

/// The failed tests, each with the last lines of what it wrote to standard error.
///
/// A log is often kept only in part, and its end is the part that is kept.
pub fn failures(report: &str) -> Vec<String> {
    report
        .split("<testcase ")
        .skip(1)
        .filter_map(|case| {
            let (element, rest) = case.split_once('>')?;
            if element.ends_with('/') || !(rest.contains("<failure") || rest.contains("<error")) {
                return None;
            }
            let name = attribute(element, "name").unwrap_or("?");
            let binary = attribute(element, "classname").unwrap_or("?");
            let printed = rest
                .split_once("<system-err>")
                .and_then(|(_, text)| text.split_once("</system-err>"))
                .map_or("", |(text, _)| text);
            let lines: Vec<&str> = printed.lines().collect();
            let mut shown = format!("failed: {binary} {name}");
            for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
                shown += "\n    ";
                shown += line;
            }
            Some(shown)
        })
        .collect()
}

/// The value of an element's attribute; other elements' attributes may end in the same word.
fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let wanted = format!("{name}=\"");
    let start = element.match_indices(&wanted).find_map(|(at, _)| {
        (at == 0 || element[..at].ends_with(' ')).then_some(at + wanted.len())
    })?;
    let value = &element[start..];
    Some(&value[..value.find('"')?])
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_of_a_report() {
        let report = "<?xml version=\"1.0\"?>\n<testsuites name=\"nextest-run\" tests=\"12\" failures=\"2\" errors=\"1\" uuid=\"x\">\n <testsuite tests=\"3\"/>";
        assert_eq!(super::counts(report), Some((12, 3)));
        assert_eq!(super::counts("nothing"), None);
    }

    #[test]
    fn failures_of_a_report() {
        let report = "<testsuite>\n\
            <testcase name=\"good\" classname=\"suite::victims\" time=\"0.1\"/>\n\
            <testcase name=\"bad\" classname=\"suite::victims\" time=\"0.1\">\n\
            <failure type=\"exit code 101\"/>\n\
            <system-err>first\nlast</system-err>\n\
            </testcase>\n\
            <testcase name=\"silent\" classname=\"suite::mpi\"><error/></testcase>\n\
            </testsuite>";
        assert_eq!(
            super::failures(report),
            [
                "failed: suite::victims bad\n    first\n    last",
                "failed: suite::mpi silent"
            ]
        );
    }
}
