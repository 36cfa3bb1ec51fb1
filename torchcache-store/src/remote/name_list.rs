//! Names in an object: one a line, and a checksum of them at the end, since one wrong digit is another name.

use std::fmt::Display;

/// The digits of the checksum, and a line break.
const SUM_LEN: usize = 17;

/// The content of an object with these names.
pub(crate) fn write(names: impl IntoIterator<Item = impl Display>) -> String {
    let lines = names.into_iter().map(|name| format!("{name}\n"));
    let mut content: String = lines.collect();
    content += &sum(content.as_bytes());
    content
}

/// The names in a content, unless it is damaged.
pub(crate) fn parse(content: &[u8]) -> Option<Vec<&str>> {
    let (lines, written) = content.split_at_checked(content.len().checked_sub(SUM_LEN)?)?;
    let is_intact = sum(lines).as_bytes() == written;
    let lines = std::str::from_utf8(lines).ok().filter(|_| is_intact)?;
    Some(lines.lines().collect())
}

fn sum(lines: &[u8]) -> String {
    let hash = blake3::hash(lines).to_hex();
    format!("{}\n", &hash[..SUM_LEN - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lists_have_no_names() {
        let content = write(["a.tcs", "b.tcs"]);
        assert_eq!(parse(content.as_bytes()), Some(vec!["a.tcs", "b.tcs"]));
        assert_eq!(parse(write([""; 0]).as_bytes()), Some(vec![]));
        for at in 0..content.len() {
            let mut bad = content.clone().into_bytes();
            bad[at] ^= 1;
            assert_eq!(parse(&bad), None, "byte {at}");
            assert_eq!(parse(&content.as_bytes()[..at]), None, "{at} bytes");
        }
    }
}
