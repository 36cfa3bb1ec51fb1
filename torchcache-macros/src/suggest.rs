//! "Did you mean": the known word nearest to a misspelt one. Apart, because options, overrides,
//! eviction policies and field attributes all ask for it.

/// `; did you mean X?` where one of `known` is near, else `; known are …` with all of them.
/// `prefix` is shown before each known word.
pub(crate) fn hint(word: &str, known: &[&str], prefix: &str) -> String {
    let near = known
        .iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= (word.chars().count() / 3).max(1));
    match near {
        Some((_, candidate)) => format!("; did you mean `{prefix}{candidate}`?"),
        None => {
            let all: Vec<_> = known
                .iter()
                .map(|word| format!("`{prefix}{word}`"))
                .collect();
            format!("; known are {}", all.join(", "))
        }
    }
}

/// How many letters must be inserted, deleted, replaced, or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    // rows[i][j]: from the first i letters of `left` to the first j of `right`.
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
                let swapped =
                    i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
                let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if swapped {
                    best.min(rows[i - 2][j - 2] + 1)
                } else {
                    best
                }
            };
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_counts_once() {
        assert_eq!(distance("persitsent", "persistsent"), 1);
        assert_eq!(distance("lur", "lru"), 1);
        assert_eq!(distance("", "lru"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_far_word_lists_all_known_ones() {
        assert_eq!(
            hint("fifo", &["lru", "never"], ""),
            "; known are `lru`, `never`"
        );
        assert_eq!(hint("lfu", &["lru", "never"], ""), "; did you mean `lru`?");
    }
}
