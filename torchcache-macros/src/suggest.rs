//! The known word nearest to a misspelt one, for messages about options, override fields, policies
//! and attributes.

use strsim::osa_distance;

/// `; did you mean X?` where one of `known` is near `word`, else all of them. `prefix` is shown
/// before each known word.
pub(crate) fn hint(word: &str, known: &[&str], prefix: &str) -> String {
    let allowed = (word.chars().count() / 3).max(1);
    let near = known
        .iter()
        .map(|candidate| (osa_distance(word, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= allowed);
    match near {
        Some((_, candidate)) => format!("; did you mean `{prefix}{candidate}`?"),
        None => {
            let all = known.iter().map(|word| format!("`{prefix}{word}`"));
            format!("; expected one of {}", all.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_lists_all() {
        let policies = ["lru", "never", "auto"];
        for word in ["lfu", "lur", "llru", "lr"] {
            assert_eq!(hint(word, &policies, ""), "; did you mean `lru`?", "{word}");
        }
        assert_eq!(
            hint("fifo", &policies, ""),
            "; expected one of `lru`, `never`, `auto`"
        );
        assert_eq!(
            hint("enabeld", &["enabled"], "torchcache_"),
            "; did you mean `torchcache_enabled`?"
        );
    }
}
